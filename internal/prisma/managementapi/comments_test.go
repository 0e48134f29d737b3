package managementapi_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// The doc comment of every method says what the document says: path, statuses, whether
// it is experimental or deprecated, and which operation it is.
func TestComments(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "operations.gen.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	for _, declared := range file.Decls {
		if method, ok := declared.(*ast.FuncDecl); ok && method.Recv != nil {
			comments[method.Name.Name] = method.Doc.Text()
		}
	}
	var experimental, deprecated int
	for _, op := range operations(t) {
		comment := comments[op.name]
		lines := strings.Split(comment, "\n")
		if !strings.HasPrefix(comment, op.name+" ") || strings.HasPrefix(comment, op.name+" .") {
			t.Errorf("%s: the comment does not say what it does: %q", op.name, lines[0])
		}
		for _, line := range []string{"Source: Prisma Management API, operation " + op.spec.OperationID + "."} {
			if !slices.Contains(lines, line) {
				t.Errorf("%s: the comment lacks %q", op.name, line)
			}
		}
		if !strings.Contains(comment, "\t"+op.method+" "+op.path) {
			t.Errorf("%s: the comment lacks %s %s", op.name, op.method, op.path)
		}
		for _, p := range op.params("query") {
			if !strings.Contains(comment, p.Name+"=") {
				t.Errorf("%s: the comment lacks the parameter %s", op.name, p.Name)
			}
		}
		for _, status := range op.statuses("12345") {
			if !strings.Contains(comment, "\n\t"+status) {
				t.Errorf("%s: the comment lacks the status %s", op.name, status)
			}
		}
		isExperimental := marked(t, op.spec.Extensions["x-experimental"])
		if strings.Contains(comment, "\nExperimental: ") != isExperimental {
			t.Errorf("%s: experimental is %t in the document, not in the comment", op.name, isExperimental)
		}
		// Tools know "Deprecated:" only as the start of a paragraph.
		if strings.Contains(comment, "\n\nDeprecated: ") != op.spec.Deprecated {
			t.Errorf("%s: deprecated is %t in the document, not in the comment", op.name, op.spec.Deprecated)
		}
		experimental += map[bool]int{true: 1}[isExperimental]
		deprecated += map[bool]int{true: 1}[op.spec.Deprecated]
	}
	if experimental != 71 || deprecated != 11 {
		t.Errorf("%d experimental and %d deprecated operations, want 71 and 11", experimental, deprecated)
	}
}

// marked reads an extension of the document.
func marked(t *testing.T, value any) bool {
	t.Helper()
	if raw, ok := value.(json.RawMessage); ok {
		value = decoded(t, raw)
	}
	is, _ := value.(bool)
	return is
}
