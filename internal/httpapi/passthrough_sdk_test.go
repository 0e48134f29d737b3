package httpapi_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/nodetest"
)

// step is what the script says about one call of the SDK.
type step struct {
	Step   string
	Status int
	Data   json.RawMessage
	Error  *struct {
		Type   string
		Status int
		Error  struct{ Code, Message string }
	}
}

// TestPrismasOwnSDK runs Prisma's published SDK against the pass-through, with our key in
// place of a token, while access tokens end in between.
func TestPrismasOwnSDK(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	steps := runSDK(t, w, connection)

	want := map[string]int{
		"create project": 201, "read project": 200, "rename project": 200, "create database": 201, "read database": 200, "read at once": 200,
		"create another": 201, "pages": 200, "read as a stream": 200, "delete database": 204, "delete project": 204, "read deleted": 404,
		"transfer": 403, "unknown key": 401, "unknown connection": 404, "through the SDK's storage": 200,
	}
	codes := map[string]string{"transfer": "operation-not-allowed", "unknown key": "unauthorized", "unknown connection": "not-found"}
	data := map[string]string{
		"read at once": `20`, "read as a stream": `"store"`, "pages": `{"pages":3,"names":["more 0","more 1","more 2","more 3","store"]}`,
	}
	seen := map[string]bool{}
	for _, one := range steps {
		seen[one.Step] = true
		if one.Status != want[one.Step] {
			t.Errorf("%s: status %d, want %d: %+v", one.Step, one.Status, want[one.Step], one.Error)
		}
		if text, there := data[one.Step]; there && string(one.Data) != text {
			t.Errorf("%s: %s, want %s", one.Step, one.Data, text)
		}
		if one.Status < 400 {
			continue
		}
		if one.Error == nil || one.Error.Error.Code == "" || one.Error.Error.Message == "" {
			t.Errorf("%s: the SDK's error has no code or no message: %+v", one.Step, one.Error)
		} else if code, ours := codes[one.Step]; ours && (one.Error.Error.Code != code || one.Error.Type != apitest.PublicURL+"/problems/"+code) {
			t.Errorf("%s: %+v, want our problem with the code %s", one.Step, one.Error, code)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d kinds of steps, want %d", len(seen), len(want))
	}
	if n := w.Sim.Ledger(t).Counters.Refreshes; n != 3 {
		t.Errorf("%d refreshes for 3 tokens that ended", n)
	}
}

// runSDK runs the script and returns its steps.
func runSDK(t *testing.T, w *apitest.World, connection apitest.Connection) []step {
	t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", "sdk.mjs"))
	if err != nil {
		t.Fatal(err)
	}
	var output io.Reader
	var input io.Writer
	process := nodetest.Start(t, nodetest.Installed(t, "../prisma/sdkcompare/testdata"), script, func(cmd *exec.Cmd) (err error) {
		cmd.Env = append(os.Environ(), "BASE_URL=http://"+w.Addr()+"/v1/connections/"+connection.ID+"/prisma", "API_KEY="+w.Tenant.Key)
		if output, err = cmd.StdoutPipe(); err != nil {
			return err
		}
		input, err = cmd.StdinPipe()
		return err
	})
	defer process.Kill()
	var steps []step
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one step
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Errorf("the script says %q: %v", lines.Text(), err)
		}
		if one.Step != "expire" {
			steps = append(steps, one)
			continue
		}
		expire(t, w)
		if _, err := io.WriteString(input, "go on\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := process.Wait(); err != nil || process.Said.Len() > 0 {
		t.Errorf("node ended: %v\n%s", err, process.Said)
	}
	return steps
}

// expire ends every access token at Prisma, unknown to us, when they are old enough for a
// 401 to be believed.
func expire(t *testing.T, w *apitest.World) {
	t.Helper()
	w.Advance(t, 2*time.Minute)
	w.Sim.Control(t, http.MethodPost, "expire-access-tokens", map[string]string{}, nil)
}

// TestPassThroughIsGuarded: key, scope, tenant and connection come first, whatever the
// path, and the connection's troubles are told as everywhere.
func TestPassThroughIsGuarded(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	other := w.NewTenant(t, "Other", nil)
	scopeless := w.NewKey(t, w.Tenant.ID, "read", "write", "connect")
	path := "/v1/connections/" + connection.ID + "/prisma/v1/projects"
	before := w.Sim.Ledger(t).Counters.APIRequests
	for name, tc := range map[string]struct {
		key, method, path string
		status            int
		kind              string
	}{
		"no such key":        {"cpk_unknown", "GET", path, 401, "unauthorized"},
		"no scope":           {scopeless, "GET", path, 403, "forbidden-scope"},
		"no scope, no route": {scopeless, "GET", path + "/a/b/c", 403, "forbidden-scope"},
		"another tenant":     {other.Key, "GET", path, 404, "not-found"},
		"another's change":   {other.Key, "POST", path, 404, "not-found"},
		"no connection":      {w.Tenant.Key, "GET", "/v1/connections/nothing/prisma/v1/projects", 404, "not-found"},
		"no operation":       {w.Tenant.Key, "GET", path + "/a/b/c", 404, "not-found"},
		"no path":            {w.Tenant.Key, "GET", "/v1/connections/" + connection.ID + "/prisma/", 404, "not-found"},
		"another version":    {w.Tenant.Key, "GET", "/v1/connections/" + connection.ID + "/prisma/v2/projects", 404, "not-found"},
		"no method":          {w.Tenant.Key, "PUT", path, 405, "method-not-allowed"},
		"an unheard-of one":  {w.Tenant.Key, "BREW", path, 405, "method-not-allowed"},
		"a refused call":     {w.Tenant.Key, "POST", path + "/p/transfer", 403, "operation-not-allowed"},
		"a key in the query": {w.Tenant.Key, "GET", path + "?cursor=" + w.Tenant.Key, 400, "invalid-request"},
		"too large":          {w.Tenant.Key, "POST", path, 413, "invalid-request"},
	} {
		var body any
		if name == "too large" {
			body = strings.Repeat("x", 10<<20+1)
		}
		answer := w.Call(t, tc.key, tc.method, tc.path, body)
		problem := apitest.WantProblem(t, answer, tc.status, tc.kind)
		var theirs struct {
			Error struct{ Code, Message string }
		}
		if err := json.Unmarshal(answer.Body, &theirs); err != nil || theirs.Error.Code != tc.kind || theirs.Error.Message != problem.Detail {
			t.Errorf("%s: in Prisma's form the error is %+v (%v), want %s", name, theirs.Error, err, tc.kind)
		}
		if tc.status == http.StatusMethodNotAllowed && answer.Header.Get("Allow") != "GET, POST" {
			t.Errorf("%s: Allow is %q", name, answer.Header.Get("Allow"))
		}
	}
	if n := w.Sim.Ledger(t).Counters.APIRequests; n != before {
		t.Errorf("%d requests arrived at Prisma", n-before)
	}
	w.Sim.Control(t, http.MethodPost, "revoke", map[string]string{"grant": w.Sim.Ledger(t).RefreshTokens[0].Grant}, nil)
	w.Advance(t, 2*time.Minute)
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, "GET", path, nil), 409, "reconnect-required")
}

// TestPassThroughPathTricks is the whole way through the service: nothing of this
// reaches Prisma.
func TestPassThroughPathTricks(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	prefix := "/v1/connections/" + connection.ID + "/prisma"
	before := w.Sim.Ledger(t).Counters.APIRequests
	tricks := []string{"/v1/projects/", "//v1/projects", "/v1//projects", "/v1/projects%2f", "/../prisma/v1/projects", "/v1/%70rojects"}
	for _, part := range []string{
		"..", ".", "%2e%2e", "%252e%252e", ".%2e", "%2f", "%252f", "%5c", `\`, "%00", "%0d%0a", "%ff", "%c0%af", ";", ";a=b", "%3b", "..;", "%3f", "%23",
		"%20", "a.", "...", "%7f", "%EF%BC%8F", "%u002e", "%zz", "",
	} {
		tricks = append(tricks, "/v1/projects/"+part, "/v1/projects/"+part+"/transfer", "/v1/"+part+"/projects", "/"+part+"/v1/projects")
	}
	for _, trick := range tricks {
		status := raw(t, w, "POST "+prefix+trick+" HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer "+w.Tenant.Key+
			"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if status != http.StatusBadRequest && status != http.StatusNotFound {
			t.Errorf("%s answered %d", trick, status)
		}
	}
	for _, target := range []string{"http://evil.example" + prefix + "/v1/projects", "http://localhost:8080" + prefix + "/v1/projects"} {
		status := raw(t, w, "GET "+target+" HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer "+w.Tenant.Key+"\r\nConnection: close\r\n\r\n")
		if status != http.StatusBadRequest {
			t.Errorf("%s answered %d", target, status)
		}
	}
	if n := w.Sim.Ledger(t).Counters.APIRequests; n != before {
		t.Errorf("%d requests arrived at Prisma", n-before)
	}
	t.Logf("%d tricks", len(tricks)+2)
}

// TestPassThroughIsAudited: each change leaves its intent and its end, with the
// operation's name and Prisma's id, and nothing of what was sent.
func TestPassThroughIsAudited(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusServiceUnavailable)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	path := "/v1/connections/" + connection.ID + "/prisma/v1/projects"
	made := apitest.Data[struct{ ID string }](t, w.Call(t, w.Tenant.Key, http.MethodPost, path, map[string]any{"name": "a name of the partner's"}))
	w.Call(t, w.Tenant.Key, http.MethodGet, path+"/"+made.ID, nil)
	w.Faults(t, map[string]any{"apiDropAfter": 1})
	dropped := w.Call(t, w.Tenant.Key, http.MethodDelete, path+"/"+made.ID, nil)
	w.Faults(t, map[string]any{"apiDropAfter": 0})
	problem := apitest.WantProblem(t, dropped, http.StatusServiceUnavailable, "prisma-unavailable")
	if !strings.Contains(problem.Detail, "Look before you send it again") || !strings.Contains(string(dropped.Body), `"outcome":"unknown"`) ||
		dropped.Header.Get("Retry-After") != "" {
		t.Errorf("an answer that got lost: %s, Retry-After %q", dropped.Body, dropped.Header.Get("Retry-After"))
	}
	if again := w.Call(t, w.Tenant.Key, http.MethodDelete, path+"/"+made.ID, nil); again.Status != http.StatusNotFound {
		t.Errorf("deleting it again answered %d", again.Status)
	}
	rows := strings.Split(apitest.Query[string](t, w, `
		SELECT string_agg(concat_ws(' ', action, target, details->>'operation', details->>'outcome', details->>'status'), E'\n' ORDER BY sequence)
		FROM audit_log WHERE tenant_id = $1 AND action LIKE 'prisma_call.%'`, w.Tenant.ID), "\n")
	const one = " DELETE /v1/projects/{id}"
	want := []string{
		"prisma_call.begun  POST /v1/projects", "prisma_call.ended  POST /v1/projects done 201",
		"prisma_call.begun " + made.ID + one, "prisma_call.ended " + made.ID + one + " unknown",
		"prisma_call.begun " + made.ID + one, "prisma_call.ended " + made.ID + one + " refused 404",
	}
	for i := range rows {
		rows[i] = strings.ReplaceAll(rows[i], "  ", " ")
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "  ", " ")
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the audit log says\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
	all := apitest.Query[string](t, w, `SELECT string_agg(l::text, ' ') FROM audit_log l WHERE tenant_id = $1`, w.Tenant.ID)
	if strings.Contains(all, "a name of the partner's") {
		t.Error("the audit log has a part of a body")
	}
}

// TestPassThroughBreaksWhatBroke: the connection is cut when Prisma's answer ends early.
func TestPassThroughBreaksWhatBroke(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	w.Upstream(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(rw, `{"data":[`)
		})
	})
	answer, err := w.Open(t, w.Tenant.Key, "/v1/connections/"+connection.ID+"/prisma/v1/projects")
	if err == nil {
		_, err = io.ReadAll(answer)
	}
	if err == nil {
		t.Error("half an answer came as a whole one")
	}
}
