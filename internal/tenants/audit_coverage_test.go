package tenants_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"testing"
)

// unaudited are the exported methods of the store that take no actor though they write,
// and why no audit row is missing.
var unaudited = map[string]string{
	"Authenticate":      "notes the last use of a key, to the minute",
	"AdoptAudit":        "writes audit rows itself",
	"CheckpointLedger":  "its checkpoints are signed evidence of their own",
	"FoldLedger":        "its folds are signed evidence of their own",
	"Beat":              "a replica's own sign of life",
	"KeepBeating":       "a replica's own sign of life",
	"EndBeats":          "a replica's own sign of life",
	"BeginOperation":    "an intent; the call that follows it and what it makes are audited",
	"RenewOperation":    "a lease",
	"EndOperation":      "the end of an intent that made nothing; its calls are audited",
	"ForgetString":      "erases what is about to be worthless; the rotation is audited",
	"ForgetStringsOf":   "the same; the call that ends them is audited",
	"EraseSecrets":      "keeps a promise about time, for nobody",
	"BeginLook":         "a lease on looking for what landed late",
	"BeginDeletion":     "an intent; the call that follows it is audited, and what came of it",
	"CancelDeletion":    "the end of an intent that did nothing; its call is audited",
	"Condemn":           "a short lease on doubles; their deletion is audited",
	"ForgetUses":        "forgets what nobody asks for any more",
	"ShortenWaits":      "mends what a clock that was set back made too long",
	"ForgetDeletions":   "forgets what nobody asks for any more",
	"DeletionsInDoubt":  "puts the next look off",
	"EndLook":           "the end of that lease; what is found is audited where it is finished",
	"BorrowBudget":      "counts requests for rate limits",
	"NameWorkspace":     "notes what Prisma calls the workspace",
	"BeginCheck":        "notes that a check is under way",
	"BeginTending":      "puts a background job off",
	"SweepSessions":     "ends each session as the system, with its row",
	"UnusedConnections": "reads",
	"AdminBySession":    "keeps a session awake",
}

// Whoever writes says for whom: each exported method of the store whose text holds an
// INSERT, UPDATE or DELETE takes the Actor and passes it on, or is in the list above.
func TestEveryChangeTakesAnActor(t *testing.T) {
	t.Parallel()
	set := token.NewFileSet()
	packages, err := parser.ParseDir(set, ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // one directory, no build tags
	ok(t, err)
	looked := 0
	for _, file := range packages["tenants"].Files {
		for _, decl := range file.Decls {
			f, isFunc := decl.(*ast.FuncDecl)
			if !isFunc || !f.Name.IsExported() || f.Recv == nil || !receives(f, "Store") || !writes(f) {
				continue
			}
			looked++
			if _, listed := unaudited[f.Name.Name]; !listed && !takesActor(f) {
				t.Errorf("%s writes, and takes no Actor: who did it?", f.Name.Name)
			}
			if takesActor(f) && !records(f) {
				t.Errorf("%s takes an Actor and writes no audit row", f.Name.Name)
			}
		}
	}
	if looked < 12 {
		t.Errorf("only %d methods that write were found", looked)
	}
}

func receives(f *ast.FuncDecl, name string) bool {
	star, isStar := f.Recv.List[0].Type.(*ast.StarExpr)
	if !isStar {
		return false
	}
	ident, isIdent := star.X.(*ast.Ident)
	return isIdent && ident.Name == name
}

func writes(f *ast.FuncDecl) bool {
	found := false
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if literal, isText := n.(*ast.BasicLit); isText && literal.Kind == token.STRING {
			text := strings.ToUpper(literal.Value)
			found = found || strings.Contains(text, "INSERT INTO") || strings.Contains(text, "UPDATE ") || strings.Contains(text, "DELETE FROM")
		}
		return !found
	})
	return found
}

func takesActor(f *ast.FuncDecl) bool {
	for _, p := range f.Type.Params.List {
		if ident, isIdent := p.Type.(*ast.Ident); isIdent && ident.Name == "Actor" {
			return true
		}
	}
	return false
}

// records reports whether the method calls what writes audit rows.
func records(f *ast.FuncDecl) bool {
	writers := map[string]bool{
		"record": true, "recordAll": true, "logAdmin": true, "endSession": true, "recordMade": true, "tellGone": true, "storeGrant": true, "takeCode": true,
	}
	found := false
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if call, isCall := n.(*ast.CallExpr); isCall {
			if sel, isSel := call.Fun.(*ast.SelectorExpr); isSel && writers[sel.Sel.Name] {
				found = true
			}
		}
		return !found
	})
	return found
}
