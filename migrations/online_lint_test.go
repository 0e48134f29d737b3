package migrations_test

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/connect-prisma/server/migrations"
)

// firstOnline is the first migration that changes tables which may be big by then, while
// the service runs.
const firstOnline = 10

// TestMigrationsLockNobodyOut: a table that was there before is not read from end to end
// under a lock that others wait for.
func TestMigrationsLockNobodyOut(t *testing.T) {
	t.Parallel()
	looked := 0
	for name, version := range files(t) {
		if version < firstOnline {
			continue
		}
		looked++
		content, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range blocking(string(content)) {
			t.Errorf("%s: %s", name, found)
		}
	}
	if looked == 0 {
		t.Error("no migration was looked at")
	}
}

// files are the migrations with their numbers.
func files(t *testing.T) map[string]int64 {
	t.Helper()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]int64{}
	for _, name := range names {
		if versions[name], err = goose.NumericComponent(name); err != nil {
			t.Fatal(err)
		}
	}
	return versions
}

func TestBlockingStepsAreFound(t *testing.T) {
	t.Parallel()
	const alone = "-- +goose NO TRANSACTION\n"
	const built = "SET lock_timeout = 0; CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b); RESET lock_timeout;"
	for sql, want := range map[string]int{
		`ALTER TABLE a ADD COLUMN b int;`:                                                                      0,
		`ALTER TABLE a ADD COLUMN b text NOT NULL DEFAULT 'x', ADD COLUMN c bigint;`:                           0,
		`ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0) NOT VALID;`:                                              1, // in the same transaction as whatever comes next
		alone + `ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0) NOT VALID; ALTER TABLE a VALIDATE CONSTRAINT c;`: 0,
		alone + `ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0) NOT VALID, VALIDATE CONSTRAINT c;`:               1,
		alone + built: 0,
		`CREATE TABLE a (b int CHECK (b > 0)); CREATE INDEX i ON a (b); ALTER TABLE a ADD CONSTRAINT c CHECK (b > 1);`: 0,
		`CREATE TABLE IF NOT EXISTS a (b int); CREATE UNIQUE INDEX i ON public.a (b);`:                                 0,
		"SELECT 1;\n-- +goose Down\nCREATE INDEX i ON a (b);":                                                          0,
		built: 1, // a transaction can't
		alone + `CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b);`:                              1,
		alone + `SET lock_timeout = 0; CREATE INDEX CONCURRENTLY i ON a (b); RESET lock_timeout;`:  1,
		alone + `SET lock_timeout = 0; CREATE INDEX IF NOT EXISTS i ON a (b); RESET lock_timeout;`: 1,
		`CREATE INDEX i ON a (b);`:                                                 1,
		`create unique index i on a using btree (b);`:                              1,
		`CREATE TABLE x (b int); CREATE INDEX i ON ONLY a (b);`:                    1,
		`ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0);`:                            1,
		`ALTER TABLE a ADD CHECK (b > 0);`:                                         1,
		`ALTER TABLE a ADD COLUMN b int CHECK (b > 0);`:                            1,
		`ALTER TABLE ONLY a ADD COLUMN IF NOT EXISTS b int REFERENCES c (d);`:      1,
		`ALTER TABLE a ADD COLUMN b int UNIQUE;`:                                   1,
		`ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e);`:         1,
		alone + `ALTER TABLE a ADD CONSTRAINT c UNIQUE (b);`:                       1,
		alone + `ALTER TABLE a ADD CONSTRAINT c UNIQUE USING INDEX i;`:             0,
		`ALTER TABLE a ADD COLUMN b timestamptz DEFAULT app.now();`:                1,
		`ALTER TABLE a ADD COLUMN b uuid NOT NULL DEFAULT gen_random_uuid();`:      1,
		`ALTER TABLE a ADD COLUMN b int GENERATED ALWAYS AS (c + 1) STORED;`:       1,
		`ALTER TABLE a ADD COLUMN b bigint NOT NULL GENERATED ALWAYS AS IDENTITY;`: 1,
		`ALTER TABLE a ALTER COLUMN b SET NOT NULL, ALTER b TYPE text;`:            2,
		`UPDATE a SET b = 1;`: 1,
		`DELETE FROM a;`:      1,
		`CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN UPDATE a SET b = 1; END $$;`: 0,
		`CLUSTER a; REINDEX TABLE a; VACUUM FULL a; LOCK TABLE a;`:                    4,
	} {
		marked, isMarked := strings.CutPrefix(sql, alone)
		text := "-- +goose Up\n" + marked
		if isMarked {
			text = alone + text
		}
		if got := blocking(text); len(got) != want {
			t.Errorf("%s: found %q, want %d", sql, got, want)
		}
	}
}

var (
	comments   = regexp.MustCompile(`--[^\n]*`)
	bodies     = regexp.MustCompile(`(?s)\$(\w*)\$.*?\$(\w*)\$`)
	newTable   = regexp.MustCompile(`\bCREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(?:PUBLIC\.)?(\w+)`)
	newIndex   = regexp.MustCompile(`^CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(IF NOT EXISTS )?(?:\w+ )?ON (?:ONLY )?(?:PUBLIC\.)?(\w+)`)
	altered    = regexp.MustCompile(`^ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?:PUBLIC\.)?(\w+) (.*)`)
	constraint = regexp.MustCompile(`^ADD (CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)\b`)
	column     = regexp.MustCompile(`^ADD `)
	inline     = regexp.MustCompile(`\b(CHECK|REFERENCES|UNIQUE|PRIMARY KEY|GENERATED|DEFAULT [A-Z_.]+ ?\()`)
	rewrites   = regexp.MustCompile(`^ALTER (COLUMN )?\w+ (SET NOT NULL|(SET DATA )?TYPE)\b`)
	changes    = regexp.MustCompile(`^(UPDATE|DELETE FROM|INSERT INTO) (?:ONLY )?(?:PUBLIC\.)?(\w+)`)
	whole      = regexp.MustCompile(`^(CLUSTER|REINDEX|VACUUM|LOCK)\b`)
)

// blocking lists the steps of the upward half of a migration that make others wait for as
// long as a table is big.
func blocking(content string) []string {
	up, _, _ := strings.Cut(content, "-- +goose Down")
	alone := strings.Contains(up, "-- +goose NO TRANSACTION")
	up = bodies.ReplaceAllString(comments.ReplaceAllString(up, ""), "''")
	up = strings.ToUpper(strings.Join(strings.Fields(up), " "))
	fresh := map[string]bool{}
	for _, match := range newTable.FindAllStringSubmatch(up, -1) {
		fresh[match[1]] = true
	}
	var found []string
	patient := false // the statement may wait for a lock, since nobody waits behind it
	for statement := range strings.SplitSeq(up, ";") {
		statement = strings.TrimSpace(statement)
		switch statement {
		case "SET LOCK_TIMEOUT = 0":
			patient = true
		case "RESET LOCK_TIMEOUT":
			patient = false
		}
		if m := newIndex.FindStringSubmatch(statement); m != nil && !fresh[m[3]] {
			switch {
			case m[1] == "" || m[2] == "":
				found = append(found, statement+": build it CONCURRENTLY IF NOT EXISTS")
			case !alone:
				found = append(found, statement+": mark the file NO TRANSACTION")
			case !patient:
				found = append(found, statement+": put it between SET lock_timeout = 0 and RESET lock_timeout")
			}
		}
		if m := altered.FindStringSubmatch(statement); m != nil && !fresh[m[1]] {
			found = append(found, blockingActions(m[2], alone)...)
		}
		if m := changes.FindStringSubmatch(statement); m != nil && !fresh[m[2]] {
			found = append(found, statement+": let the service do it, a few rows at a time")
		}
		if whole.MatchString(statement) {
			found = append(found, statement+": it locks the whole table")
		}
	}
	if patient {
		found = append(found, "RESET lock_timeout is missing")
	}
	return found
}

// blockingActions is blocking for what an ALTER TABLE does to a table that was there.
func blockingActions(text string, alone bool) []string {
	var found []string
	list := actions(text)
	adds := false
	for _, action := range list {
		adds = adds || strings.HasPrefix(action, "ADD ")
		switch {
		case constraint.MatchString(action):
			// A primary key or unique constraint can take over an index that was built before.
			if !strings.HasSuffix(action, " NOT VALID") && !strings.Contains(action, " USING INDEX ") {
				found = append(found, action+": add it NOT VALID, and validate it by a statement of its own")
			} else if !alone {
				found = append(found, action+": mark the file NO TRANSACTION, for the validation")
			}
		case column.MatchString(action) && inline.MatchString(action):
			found = append(found, action+": the whole table is read or written anew")
		case rewrites.MatchString(action):
			found = append(found, action+": the whole table is read or written anew")
		}
	}
	if adds && strings.Contains(text, "VALIDATE CONSTRAINT") {
		found = append(found, text+": validate in a statement of its own")
	}
	return found
}
