package migrations_test

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/connect-prisma/server/migrations"
)

// firstUpgrade is the first migration that a running service of an earlier version
// may see: it serves on while the schema changes below it.
const firstUpgrade = 7

// TestMigrationsOnlyAdd: what an earlier version reads and writes stays as it is. It
// names its columns, so further ones do not matter if it need not fill them.
func TestMigrationsOnlyAdd(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			t.Fatal(err)
		}
		if version < firstUpgrade {
			continue
		}
		looked++
		content, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range breaking(string(content)) {
			t.Errorf("%s breaks the version before it: %s", name, found)
		}
	}
	if looked == 0 {
		t.Error("no migration was looked at")
	}
}

func TestBreakingChangesAreFound(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]int{
		`ALTER TABLE a ADD COLUMN b int;`:                                                0,
		`ALTER TABLE a ADD COLUMN b int NOT NULL DEFAULT 0, ADD COLUMN c text;`:          0,
		`ALTER TABLE a ADD COLUMN b bigint NOT NULL GENERATED ALWAYS AS IDENTITY;`:       0,
		`CREATE TABLE a (b int NOT NULL);`:                                               0,
		"-- DROP TABLE a;\nSELECT 1;\n-- +goose Down\nDROP TABLE a;":                     0,
		`ALTER TABLE a ADD COLUMN b numeric(1, 2) NOT NULL;`:                             1,
		`ALTER TABLE a ADD COLUMN b int DEFAULT 0, ADD c text NOT NULL CHECK (c <> '');`: 1,
		`ALTER TABLE a DROP COLUMN b;`:                                                   1,
		`ALTER TABLE a DROP b;`:                                                          1,
		`DROP TABLE a;`:                                                                  1,
		`DROP FUNCTION app.a();`:                                                         1,
		`ALTER TABLE a RENAME TO b;`:                                                     1,
		`ALTER TABLE a ALTER COLUMN b SET NOT NULL;`:                                     1,
		`alter table a alter b type text;`:                                               1,
		`REVOKE SELECT ON a FROM connect_app;`:                                           1,
	} {
		if got := breaking("-- +goose Up\n" + sql); len(got) != want {
			t.Errorf("%s: found %q, want %d", sql, got, want)
		}
	}
}

// breaking lists what the upward half of a migration takes away from the code that
// ran before it.
func breaking(content string) []string {
	up, _, _ := strings.Cut(content, "-- +goose Down")
	up = regexp.MustCompile(`--[^\n]*`).ReplaceAllString(up, "")
	up = strings.ToUpper(strings.Join(strings.Fields(up), " "))
	var found []string
	// A constraint, default or index may go; what is under one's feet may not.
	for _, pattern := range []string{
		`\bDROP (TABLE|COLUMN|VIEW|SCHEMA|TYPE|FUNCTION|ROLE|SEQUENCE)\b[^;]*`,
		`\bALTER TABLE [^;]*\bRENAME\b[^;]*`,
		`\bALTER (COLUMN )?\w+ (SET NOT NULL|(SET DATA )?TYPE)\b[^;]*`,
		`\bREVOKE [^;]* FROM CONNECT_(APP|OPERATOR)\b`,
	} {
		found = append(found, regexp.MustCompile(pattern).FindAllString(up, -1)...)
	}
	for _, alter := range regexp.MustCompile(`\bALTER TABLE ([^;]*)`).FindAllStringSubmatch(up, -1) {
		for _, action := range actions(alter[1]) {
			if regexp.MustCompile(`^(\S+ )?DROP (IF EXISTS )?"?\w+"?( CASCADE| RESTRICT)?$`).MatchString(action) {
				found = append(found, action)
			}
			if regexp.MustCompile(`\bADD (COLUMN )?`).MatchString(action) && !strings.Contains(action, "ADD CONSTRAINT") &&
				strings.Contains(action, "NOT NULL") && !strings.Contains(action, "DEFAULT") && !strings.Contains(action, "GENERATED") {
				found = append(found, action)
			}
		}
	}
	return found
}

// actions splits what an ALTER TABLE does at the commas outside of parentheses.
func actions(text string) []string {
	var list []string
	depth, begin := 0, 0
	for i, r := range text {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				list = append(list, strings.TrimSpace(text[begin:i]))
				begin = i + 1
			}
		}
	}
	return append(list, strings.TrimSpace(text[begin:]))
}
