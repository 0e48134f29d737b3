package prismasim_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestControlRefusesBadInput(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tests := map[string]struct{ method, path, body string }{
		"unknown fault":        {http.MethodPut, "faults", `{"tokenlatency":"1s","x":1}`},
		"rate above 1":         {http.MethodPut, "faults", `{"api429":2}`},
		"negative rate":        {http.MethodPut, "faults", `{"api429":-0.1}`},
		"number as duration":   {http.MethodPut, "faults", `{"listLag":5}`},
		"negative duration":    {http.MethodPut, "faults", `{"listLag":"-5s"}`},
		"unknown mode":         {http.MethodPut, "faults", `{"logicalIdMode":"loose"}`},
		"not JSON":             {http.MethodPut, "faults", `{`},
		"two objects":          {http.MethodPut, "faults", `{}{}`},
		"unknown consent":      {http.MethodPut, "consent", `{"mode":"maybe"}`},
		"no consent":           {http.MethodPut, "consent", `{}`},
		"unknown workspace":    {http.MethodPut, "consent", `{"mode":"approve","workspaceId":"wksp_none"}`},
		"time runs back":       {http.MethodPost, "clock", `{"advance":"-1h"}`},
		"no time":              {http.MethodPost, "clock", `{}`},
		"unknown grant":        {http.MethodPost, "revoke", `{"grant":"grant_none"}`},
		"unknown grant's time": {http.MethodPost, "expire-access-tokens", `{"grant":"grant_none"}`},
		"unknown database":     {http.MethodPost, "backup", `{"databaseId":"db_none"}`},
		"client half public":   {http.MethodPut, "seed", `{"clients":[{"id":"c","redirectUris":["https://a.example/"]}]}`},
		"client, no redirects": {http.MethodPut, "seed", `{"clients":[{"id":"c","secret":"s"}]}`},
		"relative redirect":    {http.MethodPut, "seed", `{"clients":[{"id":"c","secret":"s","redirectUris":["/cb"]}]}`},
		"user, no workspace":   {http.MethodPut, "seed", `{"users":[{"id":"u","email":"u@example.com","workspaceIds":["wksp_none"]}]}`},
		"short service token":  {http.MethodPut, "seed", `{"serviceTokens":[{"workspaceId":"wksp_bob","name":"n","value":"short"}]}`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := send(t, tc.method, sim.URL+"/_control/"+tc.path, tc.body, http.Header{"Content-Type": {"application/json"}})
			if response.StatusCode != http.StatusBadRequest {
				t.Errorf("status = %d, want 400", response.StatusCode)
			}
		})
	}
}

func TestControlIsForThisMachineAlone(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tests := map[string]struct {
		peer, site string
		status     int
	}{
		"loopback":          {"127.0.0.1:4000", "", http.StatusOK},
		"IPv6 loopback":     {"[::1]:4000", "", http.StatusOK},
		"another machine":   {"192.0.2.1:4000", "", http.StatusForbidden},
		"another page here": {"127.0.0.1:4000", "cross-site", http.StatusForbidden},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/_control/expire-access-tokens", nil)
			request.RemoteAddr = tc.peer
			request.Header.Set("X-Forwarded-For", "127.0.0.1")
			if tc.site != "" {
				request.Header.Set("Sec-Fetch-Site", tc.site)
			}
			recorder := httptest.NewRecorder()
			sim.ServeHTTP(recorder, request)
			if recorder.Code != tc.status {
				t.Errorf("status = %d, want %d", recorder.Code, tc.status)
			}
		})
	}
}

func TestFaultsKeepWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	status, body := sim.Do(t, http.MethodGet, "/_control/faults", "", nil)
	if status != http.StatusOK || text(t, body, "codeLifetime") != "1m0s" || text(t, body, "logicalIdMode") != "strict" {
		t.Errorf("at first: %d %s", status, body)
	}
	faults(t, sim, map[string]any{"apiLatency": "1ms", "api429": 0.25})
	faults(t, sim, map[string]any{"listLag": "2s"})
	_, body = sim.Do(t, http.MethodGet, "/_control/faults", "", nil)
	if text(t, body, "apiLatency") != "1ms" || dig(t, body, "api429") != 0.25 || text(t, body, "listLag") != "2s" {
		t.Errorf("then: %s", body)
	}
}

func TestClockMovesWithItsCompanion(t *testing.T) {
	t.Parallel()
	var moved time.Duration
	var refuse error
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	sim := prismasimtest.Start(t, func(c *prismasim.Config) {
		c.Now = func() time.Time { return start }
		c.OnClockAdvance = func(_ context.Context, by time.Duration) error {
			moved += by
			return refuse
		}
	})
	var clock struct {
		Now    time.Time
		Offset string
	}
	sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": "36h"}, &clock)
	if moved != 36*time.Hour || !clock.Now.Equal(start.Add(36*time.Hour)) || clock.Offset != "36h0m0s" {
		t.Errorf("moved %v, clock %+v", moved, clock)
	}
	refuse = errors.New("no")
	if status, _ := sim.Do(t, http.MethodPost, "/_control/clock", "", map[string]string{"advance": "1h"}); status != http.StatusInternalServerError {
		t.Errorf("status = %d", status)
	}
	sim.Control(t, http.MethodGet, "clock", nil, &clock)
	if !clock.Now.Equal(start.Add(36 * time.Hour)) {
		t.Error("the clock moved although its companion did not")
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	shop := newProject(t, sim, tokens.Access, "shop")
	made := api(t, sim, http.MethodPost, "/v1/workspaces/"+prismasimtest.WorkspaceA+"/service-tokens", tokens.Access,
		map[string]string{"name": "extra"}, http.StatusCreated)
	faults(t, sim, map[string]any{"listLag": "1h"})
	sim.Control(t, http.MethodPost, "backup", map[string]string{"databaseId": shop.database}, nil)

	var ledger prismasimtest.Ledger
	sim.Control(t, http.MethodPost, "reset", nil, &ledger)
	if ledger.Counters != (prismasimtest.Ledger{}).Counters || len(ledger.RefreshTokens) != 0 {
		t.Errorf("ledger: %+v", ledger)
	}
	refused(t, shop.url)
	for _, token := range []string{tokens.Access, text(t, made, "data.value")} {
		api(t, sim, http.MethodGet, "/v1/me", token, nil, http.StatusUnauthorized)
	}
	list := api(t, sim, http.MethodGet, "/v1/projects", prismasimtest.ServiceToken, nil, http.StatusOK)
	if count(t, list, "data") != 0 {
		t.Error("projects are left")
	}
	_, body := sim.Do(t, http.MethodGet, "/_control/faults", "", nil)
	if text(t, body, "listLag") != "0s" {
		t.Error("faults are left")
	}
	conn := open(t, sim.DatabaseURL)
	if left := one[int](t, conn, `SELECT count(*) FROM pg_database WHERE starts_with(datname, '`+shop.database+`') OR starts_with(datname, 'bak_') AND pg_has_role(datdba, 'MEMBER')`); left != 0 {
		t.Errorf("%d real databases are left", left)
	}
	if left := one[int](t, conn, `SELECT count(*) FROM pg_roles WHERE rolname IN ('`+shop.database+`', '`+shop.connection+`')`); left != 0 {
		t.Errorf("%d roles are left", left)
	}
	sim.Connect(t, prismasimtest.WorkspaceA) // clients and users stay
}

func TestSeedUpserts(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	seed := prismasim.Seed{
		Workspaces:    []prismasim.Workspace{{ID: "new", Name: "New"}, {ID: prismasimtest.WorkspaceA, Name: "Renamed"}},
		Users:         []prismasim.User{{ID: prismasimtest.UserID, Email: "ada@example.com", Name: "Ada", WorkspaceIDs: []string{"new", prismasimtest.WorkspaceA}}},
		ServiceTokens: []prismasim.ServiceToken{{WorkspaceID: "wksp_new", Name: "n", Value: "service-token-of-the-new-one"}},
	}
	status, body := sim.Do(t, http.MethodPut, "/_control/seed", "", seed)
	if status != http.StatusOK {
		t.Fatalf("seed = %d", status)
	}
	if strings.Contains(string(body), "service-token-of-the-new-one") || strings.Contains(string(body), prismasimtest.ClientSecret) {
		t.Error("the answer holds a secret")
	}
	me := api(t, sim, http.MethodGet, "/v1/me", "service-token-of-the-new-one", nil, http.StatusOK)
	if text(t, me, "data.workspace.id") != "wksp_new" || dig(t, me, "data.user") != nil {
		t.Errorf("me: %s", me)
	}
	tokens := sim.Connect(t, "new") // as a workspace id, with and without its prefix
	me = api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusOK)
	if text(t, me, "data.workspace.name") != "New" || text(t, me, "data.user.id") != prismasimtest.UserID {
		t.Errorf("me: %s", me)
	}
}
