package httpapi_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

type keyView struct {
	ID, Name, Hint, Key   string
	Scopes                []string
	CreatedAt             time.Time
	ExpiresAt, LastUsedAt *time.Time
	Previous              struct {
		ID        string
		ExpiresAt time.Time
	}
}

type tenantView struct {
	ID, Name, Completion string
	ReturnUrls           []string
	Limits               map[string]int
	Key                  keyView
}

// keyStatus is how the API answers a key.
func keyStatus(t *testing.T, w *apitest.World, key string) int {
	t.Helper()
	return w.Call(t, key, http.MethodGet, "/v1/tenant", nil).Status
}

func TestTenantShowsItself(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tenant := limited(t, w, tenants.Limits{Requests: 70, Creates: 3})
	for _, scope := range tenants.AllScopes() { // whatever the key may
		key := w.NewKey(t, tenant.ID, scope)
		answer := w.Call(t, key, http.MethodGet, "/v1/tenant", nil)
		got := apitest.Data[tenantView](t, answer)
		if got.ID != tenant.ID.String() || got.Name != "Limited" || got.Completion != "code" || len(got.ReturnUrls) != 2 {
			t.Errorf("the tenant shows %+v", got)
		}
		want := map[string]int{
			"requestsPerSecond": 70, "burst": 140, "connectSessionsPerSecond": 10, "creationsPerSecond": 3, "concurrentRequests": 20,
		}
		if !maps.Equal(got.Limits, want) {
			t.Errorf("its limits are %v, want %v", got.Limits, want)
		}
		if !strings.HasPrefix(key, got.Key.Hint) || !slices.Equal(got.Key.Scopes, []string{string(scope)}) || got.Key.ExpiresAt != nil ||
			got.Key.LastUsedAt == nil || got.Key.Name != "test" {
			t.Errorf("its key is %+v", got.Key)
		}
		if strings.Contains(string(answer.Body), key) {
			t.Error("the tenant shows the key itself")
		}
	}
}

func rotate(t *testing.T, w *apitest.World, key string, body any) keyView {
	t.Helper()
	answer := w.Call(t, key, http.MethodPost, "/v1/keys/rotate", body)
	if answer.Status != http.StatusCreated || answer.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("rotate answered %d, Cache-Control %q", answer.Status, answer.Header.Get("Cache-Control"))
	}
	made := apitest.Data[keyView](t, answer)
	w.Secret("API key", made.Key)
	return made
}

func TestRotateKey(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	old := w.NewKey(t, w.Tenant.ID, tenants.ScopeRead)
	lost := rotate(t, w, old, map[string]any{})
	made := rotate(t, w, old, map[string]any{}) // whose answer got through
	if made.ID != lost.ID || keyStatus(t, w, lost.Key) != http.StatusUnauthorized || !made.Previous.ExpiresAt.Equal(lost.Previous.ExpiresAt) {
		t.Errorf("rotated again: %s after %s", made.ID, lost.ID)
	}
	if made.Name != "test" || !slices.Equal(made.Scopes, []string{"read"}) || made.ExpiresAt != nil || !tenants.IsAPIKey(made.Key) ||
		made.Previous.ID == made.ID {
		t.Errorf("the successor is %s, %v", made.Name, made.Scopes)
	}
	for _, key := range []string{old, made.Key} {
		if got := keyStatus(t, w, key); got != http.StatusOK {
			t.Errorf("of two live keys one answers %d", got)
		}
	}
	for name, key := range map[string]string{"the old key, whose successor is used": old, "the new key, beside the old one": made.Key} {
		answer := w.Call(t, key, http.MethodPost, "/v1/keys/rotate", map[string]any{})
		apitest.WantProblem(t, answer, http.StatusConflict, "conflict")
		if (answer.Header.Get("Retry-After") != "") != (key == made.Key) {
			t.Errorf("%s: Retry-After is %q", name, answer.Header.Get("Retry-After"))
		}
	}
	// Its scopes are no wider than before.
	apitest.WantProblem(t, w.Call(t, made.Key, http.MethodPost, "/v1/connect-sessions", map[string]string{"userId": "ada", "returnUrl": apitest.ReturnURL}),
		http.StatusForbidden, "forbidden-scope")
	w.Advance(t, 24*time.Hour)
	if got := [2]int{keyStatus(t, w, old), keyStatus(t, w, made.Key)}; got != [2]int{http.StatusUnauthorized, http.StatusOK} {
		t.Errorf("after a day the keys answer %v", got)
	}
	leaked := rotate(t, w, made.Key, map[string]any{"expiresInSeconds": 0, "name": "after the leak"})
	if got := [2]int{keyStatus(t, w, made.Key), keyStatus(t, w, leaked.Key)}; leaked.Name != "after the leak" || got != [2]int{http.StatusUnauthorized, http.StatusOK} {
		t.Errorf("a leaked key and its successor answer %v", got)
	}
}

func TestRotateKeyRefuses(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	for body, want := range map[string]int{
		``: 400, `[]`: 400, `{"expiresInSeconds": "1"}`: 400, `{"expiresInSeconds": 1.5}`: 400, `{"scopes": ["write"]}`: 400,
		`{"expiresInSeconds": -1}`: 422, `{"expiresInSeconds": 604801}`: 422, `{"expiresInSeconds": 1e300}`: 400,
		`{"name": ""}`: 422, `{"name": "a\u202eb"}`: 422, `{"name": " x"}`: 422,
		`{"name": "` + strings.Repeat("a", 121) + `"}`: 422,
	} {
		if answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/keys/rotate", body); answer.Status != want {
			t.Errorf("%.40s: %d, want %d: %s", body, answer.Status, want, answer.Body)
		}
	}
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM api_keys`); n != 1 {
		t.Errorf("refused rotations made %d keys", n-1)
	}
}

func TestChangeMetadata(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	path := "/v1/connections/" + connection.ID
	patch := func(body any) apitest.Answer { return w.Call(t, w.Tenant.Key, http.MethodPatch, path, body) }
	type view struct{ Metadata map[string]string }
	many := map[string]string{}
	for i := range 21 {
		many[fmt.Sprintf("n%d", i)] = "x"
	}
	for _, step := range []struct {
		body string
		want map[string]string
	}{
		{`{"metadata": {"plan": "pro", "team": "7"}}`, map[string]string{"plan": "pro", "team": "7"}},
		{`{"metadata": {"plan": "team", "team": null, "absent": null}}`, map[string]string{"plan": "team"}},
		{`{"metadata": {}}`, map[string]string{"plan": "team"}},
	} {
		answer := patch(step.body)
		if got := apitest.Data[view](t, answer).Metadata; !maps.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.body, got, step.want)
		}
	}
	for name, tc := range map[string]struct {
		body    any
		want    int
		pointer string
	}{
		"no metadata":          {`{}`, 400, "/metadata"},
		"null":                 {`{"metadata": null}`, 400, "/metadata"},
		"a number":             {`{"metadata": {"n": 1}}`, 400, "/metadata/n"},
		"with a hyphen":        {`{"metadata": {"billing-plan": 5}}`, 400, "/metadata/billing-plan"},
		"with dots":            {`{"metadata": {"billing.plan_2": 5}}`, 400, "/metadata/billing.plan_2"},
		"the longest name":     {`{"metadata": {"` + strings.Repeat("x.-_", 10) + `": 5}}`, 400, "/metadata/" + strings.Repeat("x.-_", 10)},
		"a list":               {`{"metadata": {"n": ["x"]}}`, 400, "/metadata/n"},
		"another field":        {`{"metadata": {}, "userId": "eve"}`, 400, "/userId"},
		"a NUL":                {`{"metadata": {"n": "a\u0000b"}}`, 422, "/metadata"},
		"a long value":         {`{"metadata": {"n": "` + strings.Repeat("x", 501) + `"}}`, 422, "/metadata/n"},
		"a name of HTML":       {`{"metadata": {"<i>": "x"}}`, 422, "/metadata"},
		"a number below one":   {`{"metadata": {"<i>": 5}}`, 400, "/metadata"},
		"a number below 41":    {`{"metadata": {"` + strings.Repeat("x", 41) + `": 5}}`, 400, "/metadata"},
		"a number below a way": {`{"metadata": {"a/b~c": 5}}`, 400, "/metadata"},
		"too many":             {map[string]any{"metadata": many}, 422, "/metadata"},
	} {
		answer := patch(tc.body)
		if answer.Status != tc.want || strings.Contains(string(answer.Body), "<i>") {
			t.Errorf("%s: %d, want %d: %s", name, answer.Status, tc.want, answer.Body)
		}
		var p apitest.Problem
		if answer.JSON(t, &p); len(p.Errors) != 1 || p.Errors[0].Pointer != tc.pointer {
			t.Errorf("%s: it points at %v, want %s", name, p.Errors, tc.pointer)
		}
	}
	// A renewal does not undo it, and lists show it.
	w.Advance(t, time.Hour)
	if answer := w.Call(t, w.Tenant.Key, http.MethodGet, path+"/projects", nil); answer.Status != http.StatusOK {
		t.Errorf("a call that renews: %d", answer.Status)
	}
	list := apitest.Data[[]view](t, w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections", nil))
	if len(list) != 1 || !maps.Equal(list[0].Metadata, map[string]string{"plan": "team"}) {
		t.Errorf("after a renewal the list shows %v", list)
	}
}
