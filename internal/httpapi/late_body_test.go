package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestAKeyThatEndsBeforeItsBodyHasCome does nothing any more: whoever has a leaked key could
// else send all of a call but its last byte, and keep that until the key is revoked.
func TestAKeyThatEndsBeforeItsBodyHasCome(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		late   time.Duration
		revoke bool
		status int
	}{
		"a good key":                  {20 * time.Second, false, http.StatusOK},
		"a key that was just revoked": {2 * time.Second, true, http.StatusUnauthorized},
		"one revoked a while ago":     {20 * time.Second, true, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			connection := w.Connect(t, w.Tenant, "ada", workspaceA)
			key := w.NewKey(t, w.Tenant.ID, tenants.ScopeWrite)
			caller, err := w.Store.Authenticate(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			const body = `{"metadata":{"plan":"pro"}}`
			call := openCall(t, w, key, "/v1/connections/"+connection.ID, len(body))
			if tc.revoke {
				if _, err := w.Store.RevokeKey(t.Context(), tenants.System(), w.Tenant.ID, caller.Key); err != nil {
					t.Fatal(err)
				}
			}
			w.AdvanceService(tc.late)
			if status := call(body); status != tc.status {
				t.Errorf("answered %d, want %d", status, tc.status)
			}
			stored := string(w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections/"+connection.ID, nil).Body)
			if strings.Contains(stored, `"pro"`) != (tc.status == http.StatusOK) {
				t.Errorf("the connection is now %s", stored)
			}
		})
	}
}

// openCall sends the head of a PATCH and returns, when its body is waited for, what sends
// that and returns the answer's status.
func openCall(t *testing.T, w *apitest.World, key, path string, length int) (send func(body string) int) {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", w.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(w.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, key, length); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewReader(conn)
	if line, err := from.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
		t.Fatalf("the body is not waited for: %q, %v", line, err)
	}
	if _, err := from.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return func(body string) int {
		t.Helper()
		if _, err := io.WriteString(conn, body); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.StatusCode
	}
}
