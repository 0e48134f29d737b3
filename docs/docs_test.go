// Package docs_test keeps the documentation true: links resolve, tables name what
// the code has, and every shell example is run.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

// root is the top of the repository: tests run in the directory of their package.
const root = ".."

func read(tb testing.TB, path string) string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		tb.Fatal(err)
	}
	return string(content)
}

// documents returns every Markdown file, relative to root.
func documents(tb testing.TB) []string {
	tb.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			path, err = filepath.Rel(root, path)
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(found) < 8 {
		tb.Fatalf("only %d documents found: %v", len(found), found)
	}
	return found
}

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	total := 0
	for _, document := range documents(t) {
		for _, found := range link.FindAllStringSubmatch(withoutFences(read(t, document)), -1) {
			path, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(path, "://") || strings.HasPrefix(path, "mailto:") {
				continue
			}
			total++
			target := filepath.Join(filepath.Dir(document), path)
			if path == "" {
				target = document
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %s leads nowhere", document, found[1])
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s has no such heading", document, found[1])
			}
		}
	}
	if total < 20 {
		t.Errorf("only %d relative links found", total)
	}
}

// anchors are the names under which headings can be linked to.
func anchors(text string) []string {
	var names []string
	for line := range strings.Lines(withoutFences(text)) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			title = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			names = append(names, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return names
}

func withoutFences(text string) string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
}

// table returns the cells of the table below a header row that begins with head,
// without backticks.
func table(tb testing.TB, document, head string) [][]string {
	tb.Helper()
	var rows [][]string
	inside := false
	for line := range strings.Lines(read(tb, document)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "| "+head+" |"):
			inside = true
		case !inside || strings.HasPrefix(line, "| ---"):
		case !strings.HasPrefix(line, "|"):
			return rows
		default:
			var cells []string
			for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.ReplaceAll(strings.TrimSpace(cell), "`", ""))
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		tb.Fatalf("%s has no table with the head %q", document, head)
	}
	return rows
}

type setting struct{ Name, Default string }

// TestSettingsTable compares the operators' table with the struct that the program
// reads its environment into: every variable and its default.
func TestSettingsTable(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "cmd/server/settings.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var want []setting
	ast.Inspect(file, func(node ast.Node) bool {
		field, ok := node.(*ast.Field)
		if !ok || field.Tag == nil {
			return true
		}
		text, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		tag := reflect.StructTag(text)
		want = append(want, setting{Name: tag.Get("env"), Default: tag.Get("envDefault")})
		return true
	})

	var got []setting
	for _, row := range table(t, "docs/operators.md", "variable") {
		one := setting{Name: row[0], Default: row[2]}
		// What is said of a default that the code has no text for.
		if slices.Contains([]string{"required", "none", "DATABASE_URL", "DATABASE_DIRECT_URL"}, one.Default) {
			one.Default = ""
		}
		got = append(got, one)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-code +table):\n%s", diff)
	}
}

func TestErrorTableNamesEveryKind(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, kind := range append(fault.Kinds(), "internal") {
		want = append(want, string(kind))
	}
	for _, row := range table(t, "docs/partners.md", "type") {
		got = append(got, row[0])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-code +table):\n%s", diff)
	}
}

func TestRefusedOperationsTable(t *testing.T) {
	t.Parallel()
	var want, got [][]string
	for _, r := range passthrough.Refusals() {
		want = append(want, []string{r.Operation, r.Reason})
	}
	got = append(got, table(t, "docs/partners.md", "operation")...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused operations (-code +table):\n%s", diff)
	}
}

// TestExamplesAreMarked: a shell example is run by a test, or names nothing but make
// targets that exist.
func TestExamplesAreMarked(t *testing.T) {
	t.Parallel()
	for _, document := range documents(t) {
		if document != "README.md" && filepath.Dir(document) != "docs" {
			continue
		}
		for _, example := range blocks(read(t, document)) {
			switch {
			case !strings.HasPrefix(example.info, "sh") && !strings.HasPrefix(example.info, "bash") && !strings.HasPrefix(example.info, "ts"):
			case example.info == "sh test", example.info == "sh test background", example.info == "ts test",
				example.info == "sh browser", example.info == "ts part": // TestPartsAreThoseOfThePrograms
			case example.info == "sh by-hand":
				target, ok := strings.CutPrefix(strings.TrimSpace(example.text), "make ")
				out, err := exec.CommandContext(t.Context(), "make", "-C", root, "-n", target).CombinedOutput()
				if !ok || err != nil {
					t.Errorf("%s: %q is not a task: %v\n%s", document, example.text, err, out)
				}
			default:
				t.Errorf("%s: the block %q is run by no test:\n%s", document, example.info, example.text)
			}
		}
	}
}
