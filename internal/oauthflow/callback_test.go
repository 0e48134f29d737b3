package oauthflow_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

const (
	workspaceA = prismasimtest.WorkspaceA
	workspaceB = prismasimtest.WorkspaceB
)

// begun is a session whose user stands before Prisma's answer.
type begun struct {
	session  apitest.Session
	browser  *apitest.Browser
	mark     string   // the cookie that the page gave, before the click
	callback *url.URL // where Prisma sends the browser
}

func begin(t *testing.T, w *apitest.World, user string) begun {
	t.Helper()
	b := begun{session: w.CreateSession(t, w.Tenant, user, nil), browser: w.NewBrowser()}
	b.browser.Do(t, http.MethodGet, b.session.URL, nil)
	b.mark = b.browser.Cookies[cookieName(b.session.ID)]
	back, err := url.Parse(b.browser.Consent(t, b.browser.Click(t, b.session.URL), workspaceA))
	if err != nil {
		t.Fatal(err)
	}
	b.callback = back
	return b
}

// discovered lets the service read Prisma's metadata first, as the serve command does.
// It promises iss in every answer.
func discovered(t *testing.T) apitest.Option {
	t.Helper()
	return apitest.WithFlow(func(c *oauthflow.Config) {
		oauth, ok := c.OAuth.(*prisma.OAuth)
		if !ok {
			t.Fatalf("the flow rests on a %T", c.OAuth)
		}
		if found, err := oauth.Discover(t.Context()); err != nil || !found.IssInResponse {
			t.Fatalf("Discover() = %+v, %v", found, err)
		}
	})
}

// cookieName is the name of a session's cookie.
func cookieName(id string) string { return "__Host-connect-" + id }

// with returns the callback with another state; nil leaves it out.
func (b begun) with(state *string) string {
	u := *b.callback
	query := u.Query()
	query.Del("state")
	if state != nil {
		query.Set("state", *state)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// TestOnlyTheRightCookieWithTheRightStatePasses tries the kinds of cookie with the
// kinds of state, each pair on a session of its own. One pair may pass.
func TestOnlyTheRightCookieWithTheRightStatePasses(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, discovered(t))
	other := begin(t, w, "somebody else")
	otherCookie := other.browser.Cookies[cookieName(other.session.ID)]
	text := func(s string) *string { return &s }

	// Each damages the browser's cookies, and says how far the service's clock moves
	// before the callback.
	cookies := map[string]func(b begun, name string) time.Duration{
		"missing": func(b begun, name string) time.Duration { delete(b.browser.Cookies, name); return 0 },
		"garbage": func(b begun, name string) time.Duration {
			b.browser.Cookies[name] = "MTcwMDAwMDAwMHxnYXJiYWdlLWdhcmJhZ2UtZ2FyYmFnZQ=="
			return 0
		},
		"another session's": func(b begun, name string) time.Duration { b.browser.Cookies[name] = otherCookie; return 0 },
		"too old":           func(begun, string) time.Duration { return 11 * time.Minute },
		"from the future":   func(begun, string) time.Duration { return -2 * time.Minute },
		"right":             func(begun, string) time.Duration { return 0 },
		"twice, one alien":  func(b begun, name string) time.Duration { b.browser.Cookies[" "+name] = otherCookie; return 0 },
		"of 5 KB": func(b begun, name string) time.Duration {
			b.browser.Cookies[name] += strings.Repeat("A", 5000)
			return 0
		},
		"of before the click": func(b begun, name string) time.Duration { b.browser.Cookies[name] = b.mark; return 0 },
	}
	states := map[string]func(b begun) string{
		"missing":           func(b begun) string { return b.with(nil) },
		"empty":             func(b begun) string { return b.with(text("")) },
		"malformed":         func(b begun) string { return b.with(text(b.session.ID + ".short")) },
		"another session's": func(b begun) string { return b.with(text(other.callback.Query().Get("state"))) },
		"right":             func(b begun) string { return b.callback.String() },
	}
	passed := 0
	for cookie, damage := range cookies {
		for state, address := range states {
			b := begin(t, w, "user")
			moved := damage(b, cookieName(b.session.ID))
			w.AdvanceService(moved)
			answer := b.browser.Do(t, http.MethodGet, address(b), nil)
			w.AdvanceService(-moved)
			ok := answer.Status == http.StatusSeeOther
			if ok {
				passed++
			} else if answer.Status != http.StatusBadRequest || answer.Heading(t) == "" {
				t.Errorf("cookie %s, state %s: status %d", cookie, state, answer.Status)
			}
			if ok != (cookie == "right" && state == "right") {
				t.Errorf("cookie %s, state %s: passed %v", cookie, state, ok)
			}
		}
	}
	ledger := w.Sim.Ledger(t).Counters
	t.Logf("%d cookie states × %d state forms: %d passed, %d token requests", len(cookies), len(states), passed, ledger.CodeExchanges)
	if passed != 1 || ledger.CodeExchanges != 0 {
		t.Errorf("%d passed and %d token requests were made, want 1 and 0", passed, ledger.CodeExchanges)
	}
}

func TestParallelCallbacksAndCompletionsHaveOneWinner(t *testing.T) {
	t.Parallel()
	const many = 50
	w := apitest.New(t)
	b := begin(t, w, "ada")

	var mu sync.Mutex
	codes, refused := map[string]int{}, map[int]int{}
	address := b.callback.String()
	apitest.AtOnce(many, func(int) {
		answer := b.browser.Copy().Do(t, http.MethodGet, address, nil)
		mu.Lock()
		defer mu.Unlock()
		if answer.Status == http.StatusSeeOther {
			codes[answer.Query(t).Get("completionCode")]++
			return
		}
		refused[answer.Status]++
	})
	t.Logf("%d parallel callbacks: %d redirects, refused %v", many, len(codes), refused)
	if len(codes) != 1 || refused[http.StatusBadRequest] != many-1 {
		t.Fatalf("%d redirects, refused %v; want 1 and %d × 400", len(codes), refused, many-1)
	}
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Fatalf("%d token requests before the completion", n)
	}

	code := slices.Collect(maps.Keys(codes))[0]
	w.Faults(t, map[string]any{"tokenLatency": "150ms"})
	connections, running := map[string]int{}, 0
	apitest.AtOnce(many, func(int) {
		answer := w.Complete(t, w.Tenant.Key, b.session.ID, code, "ada")
		mu.Lock()
		defer mu.Unlock()
		if answer.Status == http.StatusOK {
			connections[apitest.Data[apitest.Connection](t, answer).ID]++
			return
		}
		running++
		apitest.WantProblem(t, answer, http.StatusConflict, "completion-in-progress")
		if answer.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	})
	ledger := w.Sim.Ledger(t).Counters
	t.Logf("%d parallel completions: %d answered 200, %d in progress, %d token requests, %d replays",
		many, many-running, running, ledger.CodeExchanges, ledger.Replays)
	if len(connections) != 1 || ledger.CodeExchanges != 1 || ledger.Replays != 0 {
		t.Errorf("%d connections and %d token requests, want 1 and 1", len(connections), ledger.CodeExchanges)
	}
	if last := w.Complete(t, w.Tenant.Key, b.session.ID, code, "ada"); last.Status != http.StatusOK {
		t.Errorf("a late one answered %d", last.Status)
	}
	if got := apitest.Query[int](t, w, "SELECT count(*)::int FROM connections"); got != 1 {
		t.Errorf("%d connections are stored", got)
	}
}
