package httpapi_test

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/tenants"
)

// limited makes a tenant with those limits.
func limited(t *testing.T, w *apitest.World, l tenants.Limits) apitest.Tenant {
	t.Helper()
	return w.NewTenant(t, "Limited", func(in *tenants.TenantInput) { in.Limits = l })
}

// retryAfter is the advice of a 429, in whole seconds.
func retryAfter(t *testing.T, answer apitest.Answer) time.Duration {
	t.Helper()
	apitest.WantProblem(t, answer, http.StatusTooManyRequests, "quota-exceeded")
	n, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil || n < 1 {
		t.Errorf("Retry-After is %q, want a number of seconds", answer.Header.Get("Retry-After"))
	}
	return time.Duration(n) * time.Second
}

// Whatever an authenticated call comes to, it says what is left; who is not let in is
// told nothing.
func TestEveryAuthenticatedAnswerShowsTheLimits(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tenant := limited(t, w, tenants.Limits{Requests: 1000, Sessions: 1000, Creates: 1000})
	readOnly := w.NewKey(t, tenant.ID, tenants.ScopeRead)
	form := regexp.MustCompile(`^"requests";r=\d+;t=\d+(, "(sessions|creates)";r=\d+;t=\d+)?$`)
	policy := regexp.MustCompile(`^"requests";q=2000;w=2(, "(sessions|creates)";q=2000;w=2)?$`)
	seen := map[int]int{}
	for _, r := range apiRoutes(t, w) {
		path := regexp.MustCompile(`:\w+`).ReplaceAllString(strings.ReplaceAll(r.path, "*", "projects"), "unknown")
		for _, key := range []string{tenant.Key, readOnly} {
			for _, query := range []string{"", "?unknown=1"} {
				answer := w.Call(t, key, r.method, path+query, r.body())
				seen[answer.Status]++
				if !form.MatchString(answer.Header.Get("RateLimit")) || !policy.MatchString(answer.Header.Get("RateLimit-Policy")) {
					t.Errorf("%s %s%s, %d: RateLimit %q, RateLimit-Policy %q", r.method, r.path, query, answer.Status,
						answer.Header.Get("RateLimit"), answer.Header.Get("RateLimit-Policy"))
				}
			}
		}
		answer := w.Call(t, "cpk_wrong", r.method, path, r.body())
		if answer.Status != http.StatusUnauthorized || answer.Header.Get("RateLimit") != "" || answer.Header.Get("RateLimit-Policy") != "" {
			t.Errorf("%s %s without a key: %d, RateLimit %q", r.method, r.path, answer.Status, answer.Header.Get("RateLimit"))
		}
	}
	for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound} {
		if seen[status] == 0 {
			t.Errorf("no answer was a %d: %v", status, seen)
		}
	}
}

// Above its rate a tenant is told to wait, for as long as is needed, and nobody else is.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	noisy, quiet := limited(t, w, tenants.Limits{Requests: 5, Burst: 10}), limited(t, w, tenants.Limits{})
	other := w.NewKey(t, noisy.ID, tenants.ScopeRead)
	get := func(key string) apitest.Answer { return w.Call(t, key, http.MethodGet, "/v1/connections", nil) }
	served := 0
	var last apitest.Answer
	for range 100 {
		if last = get(noisy.Key); last.Status != http.StatusOK {
			break
		}
		served++
	}
	if served < 10 || served > 40 { // time passes, more of it on a busy machine
		t.Errorf("%d calls at once were served, want the burst of 10", served)
	}
	wait := retryAfter(t, last)
	if got := last.Header.Get("RateLimit"); got != `"requests";r=0;t=`+strconv.Itoa(int(wait.Seconds())) {
		t.Errorf("RateLimit is %q beside Retry-After: %s", got, wait)
	}
	if strings.Contains(string(last.Body), noisy.Key) || !strings.Contains(string(last.Body), "5 calls a second") {
		t.Errorf("the refusal says: %s", last.Body)
	}
	if answer := get(quiet.Key); answer.Status != http.StatusOK {
		t.Errorf("another tenant's call: %d", answer.Status)
	}
	w.Advance(t, wait)
	for _, key := range []string{other, noisy.Key} { // all keys of a tenant share its rate
		if answer := get(key); answer.Status != http.StatusOK {
			t.Errorf("after Retry-After: %d", answer.Status)
		}
	}
	w.Advance(t, time.Minute)
	for i := range 10 {
		if answer := get(noisy.Key); answer.Status != http.StatusOK {
			t.Errorf("call %d after a pause: %d", i, answer.Status)
		}
	}
}

// Connect sessions and creating calls have rates of their own, and what is refused
// reaches neither the database nor Prisma.
func TestRatesOfWhatIsMade(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tenant := limited(t, w, tenants.Limits{Requests: 1000, Sessions: 1, Creates: 1})
	connection := w.Connect(t, tenant, "ada", workspaceA)
	w.Advance(t, time.Minute)
	session := map[string]string{"userId": "ada", "returnUrl": apitest.ReturnURL}
	project := map[string]string{"name": "shop", "region": "us-east-1"}
	for name, tc := range map[string]struct {
		path string
		body any
	}{
		"sessions": {"/v1/connect-sessions", session},
		"creates":  {"/v1/connections/" + connection.ID + "/projects", project},
	} {
		made, before := 0, w.Sim.Ledger(t).Counters.APIRequests
		var last apitest.Answer
		for range 50 {
			if last = w.Call(t, tenant.Key, http.MethodPost, tc.path, tc.body); last.Status != http.StatusCreated {
				break
			}
			made++
			before = w.Sim.Ledger(t).Counters.APIRequests
		}
		retryAfter(t, last)
		if made < 2 || made > 20 || !strings.Contains(last.Header.Get("RateLimit"), `"`+name+`";r=0;`) {
			t.Errorf("%s: %d were made at once, then RateLimit is %q", name, made, last.Header.Get("RateLimit"))
		}
		if n := w.Sim.Ledger(t).Counters.APIRequests; n != before {
			t.Errorf("%s: a refused call sent %d requests to Prisma", name, n-before)
		}
		if answer := w.Call(t, tenant.Key, http.MethodGet, "/v1/connections", nil); answer.Status != http.StatusOK {
			t.Errorf("%s: reading meanwhile: %d", name, answer.Status)
		}
	}
}

// A tenant whose upstream is dead has its calls at once and no more; others' go on.
func TestDeadUpstreamHoldsItsOwnTenantUp(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	stuck := limited(t, w, tenants.Limits{Requests: 1000, Creates: 1000, AtOnce: 3})
	other := limited(t, w, tenants.Limits{Requests: 1000, AtOnce: 3})
	connection := w.Connect(t, stuck, "ada", workspaceA)
	arrived, revive := make(chan struct{}), make(chan struct{})
	w.Upstream(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			select {
			case arrived <- struct{}{}:
				<-revive
			case <-revive:
			}
			next.ServeHTTP(rw, r)
		})
	})
	revived := sync.OnceFunc(func() { close(revive) })
	defer revived() // so that a test that fails ends
	call := func() apitest.Answer {
		return w.Call(t, stuck.Key, http.MethodGet, "/v1/connections/"+connection.ID+"/projects", nil)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if answer := call(); answer.Status != http.StatusOK {
				t.Errorf("a call at a dead upstream, once that lives again: %d", answer.Status)
			}
		})
	}
	for range 3 {
		<-arrived
	}
	refused := call() // waits a second for its turn
	retryAfter(t, refused)
	if !strings.Contains(string(refused.Body), "3 of your calls") || !strings.HasPrefix(refused.Header.Get("RateLimit"), `"requests";r=`) {
		t.Errorf("the refusal says %s, RateLimit %q", refused.Body, refused.Header.Get("RateLimit"))
	}
	for range 20 {
		if answer := w.Call(t, other.Key, http.MethodGet, "/v1/connections", nil); answer.Status != http.StatusOK {
			t.Errorf("another tenant's call meanwhile: %d", answer.Status)
		}
	}
	revived()
	all.Wait()
	if answer := call(); answer.Status != http.StatusOK {
		t.Errorf("a call when all have ended: %d", answer.Status)
	}
}

// await asks until it is so.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); { //nolint:forbidigo // of the test
		if time.Now().After(deadline) { //nolint:forbidigo // of the test
			t.Fatal("it never came to be so")
		}
	}
}

// Guessers are slowed down by where they come from, whatever they say of that; keys that
// are known to be good go on beside them.
func TestFailedAuthenticationIsSlowedDown(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, apitest.WithAuthFailures(limits.FailureRate{Burst: 5, PerMinute: 6}))
	get := func(key string, header http.Header) apitest.Answer {
		return w.Call(t, key, http.MethodGet, "/v1/connections", nil, header)
	}
	if answer := get(w.Tenant.Key, nil); answer.Status != http.StatusOK {
		t.Fatalf("a good key: %d", answer.Status)
	}
	stranger := w.NewTenant(t, "Stranger", nil) // whose key was never used, and is of the form before keys had a code
	stranger.Key = w.OldKey(t, stranger)
	for i := range 5 {
		if answer := get("cpk_guess"+strconv.Itoa(i), nil); answer.Status != http.StatusUnauthorized {
			t.Errorf("guess %d: %d", i, answer.Status)
		}
	}
	for name, header := range map[string]http.Header{
		"one more":               nil,
		"a forged address":       {"X-Forwarded-For": {"192.0.2.77"}},
		"no key":                 {"Authorization": nil},
		"another kind of key":    {"Authorization": {"Basic Zm9vOmJhcg=="}},
		"forged in another form": {"Forwarded": {"for=192.0.2.78"}, "X-Real-Ip": {"192.0.2.79"}},
	} {
		if wait := retryAfter(t, get("cpk_guess", header)); wait > 10*time.Second {
			t.Errorf("%s: wait for %s, want 10 s at most", name, wait)
		}
	}
	retryAfter(t, get(stranger.Key, nil)) // not looked up, so nothing is told of it
	if answer := get(w.NewTenant(t, "Newcomer", nil).Key, nil); answer.Status != http.StatusOK {
		t.Errorf("a key that was never used, and is no guess: %d", answer.Status)
	}
	if answer := get(w.Tenant.Key, nil); answer.Status != http.StatusOK {
		t.Errorf("a key that is known to be good: %d", answer.Status)
	}
	w.AdvanceService(10 * time.Second)
	if answer := get(stranger.Key, nil); answer.Status != http.StatusOK {
		t.Errorf("a good key after the wait: %d", answer.Status)
	}
	if answer := get("cpk_guess", nil); answer.Status != http.StatusUnauthorized {
		t.Errorf("a guess after the wait: %d", answer.Status)
	}
	retryAfter(t, get("cpk_guess", nil))
}

// A process that tries a bad key for ever is a bad neighbour to nobody.
func TestABadKeyShutsOutNobodyElse(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, apitest.WithAuthFailures(limits.FailureRate{Burst: 5, PerMinute: 6}))
	stale := w.Tenant.Key[:8] + strings.Repeat("a", len(w.Tenant.Key)-8)
	last := 0
	for range 20 {
		last = w.Call(t, stale, http.MethodGet, "/v1/connections", nil).Status
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the bad key is answered %d", last)
	}
	if answer := w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections", nil); answer.Status != http.StatusOK {
		t.Errorf("a good key that begins like it, from the same address: %d", answer.Status)
	}
}
