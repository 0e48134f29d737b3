package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// TestMain finds goroutines left behind. Those of the test's own Postgres, which the
// simulator needs, live as long as the process; so do the connections that pgtest keeps,
// and one whose write was ever slow has a reader of pgx's own until it is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/connect-prisma/server/internal/devpg.spawn.func1"),
		goleak.IgnoreAnyFunction("github.com/connect-prisma/server/internal/devpg.(*Server).keep"),
		goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgconn/internal/bgreader.(*BGReader).bgRead"),
	)
}

// platform is an API and a token endpoint over HTTP that accept one access token at a
// time and count what they get.
type platform struct {
	*httptest.Server

	latency time.Duration // of the token endpoint

	mu        sync.Mutex
	access    string // "" refuses every one
	refresh   string
	rounds    int
	apiCalls  atomic.Int32
	exchanges atomic.Int32
}

func newPlatform(t *testing.T, access, refresh string) *platform {
	t.Helper()
	p := &platform{access: access, refresh: refresh}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", p.token)
	mux.HandleFunc("GET /v1/me", p.me)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *platform) token(w http.ResponseWriter, r *http.Request) {
	p.exchanges.Add(1)
	<-time.After(p.latency)
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.PostFormValue("refresh_token") != p.refresh {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	p.rounds++
	p.refresh = fmt.Sprintf("r%d", p.rounds)
	if p.access != "" {
		p.access = jwt(fmt.Sprintf(`{"workspace_id":"wksp_1","round":%d}`, p.rounds))
	}
	_, _ = fmt.Fprintf(w, `{"access_token":%q,"refresh_token":%q,"expires_in":3600}`, jwt(fmt.Sprintf(`{"workspace_id":"wksp_1","round":%d}`, p.rounds)), p.refresh)
}

func (p *platform) me(w http.ResponseWriter, r *http.Request) {
	p.apiCalls.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if p.access == "" || r.Header.Get("Authorization") != "Bearer "+p.access {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":"authentication-failed","message":"no"}}`)
		return
	}
	_, _ = io.WriteString(w, `{"data":{"user":null,"workspace":null,"credential":{"type":"oauth","id":null,"name":null}}}`)
}

func (p *platform) caller(t *testing.T) *prisma.Caller {
	t.Helper()
	client, err := managementapi.New(managementapi.Config{BaseURL: p.URL, Transport: p.Client().Transport})
	if err != nil {
		t.Fatalf("managementapi.New() error = %v", err)
	}
	return prisma.NewCaller(client, newRefresher(t, newOAuth(t, prisma.OAuthConfig{AuthURL: p.URL})))
}

func getMe(ctx context.Context, client *prisma.Client) error {
	_, err := client.GetMe(ctx)
	return err
}

func TestCall(t *testing.T) {
	t.Parallel()

	const old = 5 * time.Minute
	tests := map[string]struct {
		age       time.Duration
		accepts   string // access token that the API takes
		refresh   string // refresh token that the token endpoint takes
		kind      fault.Kind
		fails     bool
		calls     int32
		exchanges int32
	}{
		"good token":              {age: old, accepts: "access-r", refresh: "r", calls: 1},
		"refused, then renewed":   {age: old, accepts: "other", refresh: "r", calls: 2, exchanges: 1},
		"refused, both":           {age: old, accepts: "", refresh: "r", kind: fault.PrismaRefused, fails: true, calls: 2, exchanges: 1},
		"refused although young":  {age: time.Second, accepts: "other", refresh: "r", kind: fault.PrismaRefused, fails: true, calls: 1},
		"refused, dead refresh":   {age: old, accepts: "other", refresh: "x", kind: fault.ReconnectRequired, fails: true, calls: 1, exchanges: 1},
		"expired":                 {age: 2 * time.Hour, accepts: "other", refresh: "r", calls: 1, exchanges: 1},
		"expired, dead refresh":   {age: 2 * time.Hour, accepts: "other", refresh: "x", kind: fault.ReconnectRequired, fails: true, exchanges: 1},
		"expired, refused anyway": {age: 2 * time.Hour, accepts: "", refresh: "r", kind: fault.PrismaRefused, fails: true, calls: 1, exchanges: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t, tc.accepts, tc.refresh)
			err := p.caller(t).Call(t.Context(), connection("c", newStorage(t, pair("r", tc.age))), getMe)
			if (err != nil) != tc.fails || fault.KindOf(err) != tc.kind {
				t.Errorf("Call() error = %v, want kind %q", err, tc.kind)
			}
			if p.apiCalls.Load() != tc.calls || p.exchanges.Load() != tc.exchanges {
				t.Errorf("%d calls and %d exchanges, want %d and %d", p.apiCalls.Load(), p.exchanges.Load(), tc.calls, tc.exchanges)
			}
		})
	}
}

func TestCallPassesOtherErrors(t *testing.T) {
	t.Parallel()

	p := newPlatform(t, "access-r", "r")
	caller, conn := p.caller(t), connection("c", newStorage(t, pair("r", 5*time.Minute)))
	own := errors.New("own")
	if err := caller.Call(t.Context(), conn, func(context.Context, *prisma.Client) error { return own }); !errors.Is(err, own) {
		t.Errorf("Call() error = %v, want the function's", err)
	}
	err := caller.Call(t.Context(), conn, func(ctx context.Context, c *prisma.Client) error {
		_, err := c.GetWorkspace(ctx, "none")
		return err
	})
	if answer, ok := errors.AsType[*prisma.APIError](err); !ok || answer.Status != 404 || fault.KindOf(err) != fault.NotFound {
		t.Errorf("Call() error = %v, want kind %q around the *APIError", err, fault.NotFound)
	}
	if p.exchanges.Load() != 0 {
		t.Errorf("%d exchanges, want none", p.exchanges.Load())
	}
}

// TestRefusedCallersShareOneExchange: 200 calls want a token at once that Prisma has ended,
// over real connections. Only the first few send it.
func TestRefusedCallersShareOneExchange(t *testing.T) {
	t.Parallel()

	p := newPlatform(t, "other", "r")
	p.latency = 100 * time.Millisecond
	caller, s := p.caller(t), newStorage(t, pair("r", 5*time.Minute))
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if err := caller.Call(t.Context(), connection("c", s), getMe); err != nil {
				t.Errorf("Call() error = %v", err)
			}
		})
	}
	wg.Wait()
	if p.exchanges.Load() != 1 {
		t.Errorf("%d exchanges, want 1", p.exchanges.Load())
	}
	if old := p.apiCalls.Load() - 200; old < 1 || old > 16 {
		t.Errorf("%d calls with the old token, want 16 at most", old)
	}
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r1" || got.Generation != 2 {
		t.Errorf("stored = %v, %v", got, err)
	}
}

// TestManyCallsOfASlowAPI: calls that nobody has heard of yet hold no others up for long,
// and an answer lets all go.
func TestManyCallsOfASlowAPI(t *testing.T) {
	t.Parallel()

	const callers = 60
	caller, conn := newPlatform(t, "access-r", "r").caller(t), connection("c", newStorage(t, pair("r", 5*time.Minute)))
	for _, what := range []string{"not known", "known to be good"} {
		var there, all sync.WaitGroup
		there.Add(callers)
		for range callers {
			all.Go(func() {
				err := caller.Call(t.Context(), conn, func(context.Context, *prisma.Client) error {
					there.Done()
					there.Wait() // for all of them
					return nil
				})
				if err != nil {
					t.Errorf("%s: Call() error = %v", what, err)
				}
			})
		}
		all.Wait()
	}
}
