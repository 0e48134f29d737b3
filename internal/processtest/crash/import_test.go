package crash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// TestImportKilled: an import that is killed in the middle and run again stores every
// line once, names each bad one, and shows no token. IMPORT_LINES sets how many lines;
// the promise is 100,000 within a minute.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	lines := 3000
	if text := os.Getenv("IMPORT_LINES"); text != "" {
		var err error
		if lines, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	in := processtest.NewInstallation(t)
	tenant := in.Command(t, "", "tenant", "create", "--name", "Acme", "--client-id", "client")
	bad := map[int]string{
		7: `{"userId":"canary-u"`, 500: `canary-text`, 501: `{"userId":"u","workspaceId":"w","accessToken":"canary-a","refreshToken":"canary-a"}`,
		1203: strings.Repeat("canary", 20000), lines: `{"tenant":"canary"}`,
	}
	var file strings.Builder
	file.WriteString("\uFEFF") // as some editors do
	for n := 1; n <= lines; n++ {
		line := fmt.Sprintf(`{"userId":"user-%d","workspaceId":"wksp_%d","accessToken":"canary-access-%[1]d","refreshToken":"canary-refresh-%[1]d"}`, n, n%7)
		if text, broken := bad[n]; broken {
			line = text
		}
		file.WriteString(line + "\r\n")
	}
	how := processtest.Launch{Args: []string{"import", "--tenant", tenant}, Env: in.With(nil), Stdin: file.String()}
	first := processtest.Start(t, how)
	processtest.Eventually(t, "a third of the lines is stored", func() bool {
		return strings.Count(first.Stdout.String(), "\n") > lines/3
	})
	first.Signal(t, syscall.SIGKILL)
	first.Wait(t)
	db, err := pgx.Connect(t.Context(), in.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	count := func() (n int) {
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM connections c JOIN refresh_ledger l ON l.tenant_id = c.tenant_id AND l.connection_id = c.id`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	stored := count()
	if stored == 0 || stored >= lines-len(bad) {
		t.Fatalf("%d lines were stored when it was killed: too early or too late", stored)
	}
	began := time.Now()
	code, stdout, stderr := processtest.Run(t, how)
	took := time.Since(began)
	if code != 1 || !strings.Contains(stderr, fmt.Sprintf("%d stored, %d already there, %d refused", lines-len(bad)-stored, stored, len(bad))) {
		t.Errorf("exit status %d, %d stored before:\n%s", code, stored, stderr)
	}
	if strings.Contains(stdout+stderr+first.Stdout.String()+first.Stderr.String(), "canary") {
		t.Error("a line is shown")
	}
	for n := range bad {
		if !strings.Contains(stderr, fmt.Sprintf("line %d: refused: ", n)) {
			t.Errorf("line %d is not named", n)
		}
	}
	ids := map[int]string{}
	for _, output := range []string{first.Stdout.String(), stdout} {
		for text := range strings.Lines(output) {
			var line struct {
				Line         int
				ConnectionID string `json:"connectionId"`
			}
			if !strings.HasSuffix(text, "\n") {
				continue // cut by the kill
			}
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if ids[line.Line] != "" && ids[line.Line] != line.ConnectionID {
				t.Errorf("line %d is two connections", line.Line)
			}
			ids[line.Line] = line.ConnectionID
		}
	}
	if len(ids) != lines-len(bad) || count() != len(ids) {
		t.Errorf("%d lines are told and %d connections stored, want %d", len(ids), count(), lines-len(bad))
	}
	if out := in.Command(t, "", "ledger", "verify"); !strings.Contains(out, ": 0 findings in ") {
		t.Errorf("the ledger:\n%s", out)
	}
	t.Logf("%d lines, %d of them stored by the killed run; the second took %s", lines, stored, took.Round(10*time.Millisecond))
}
