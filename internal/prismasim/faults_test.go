package prismasim_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// faults sets faults.
func faults(t *testing.T, sim *prismasimtest.Server, values map[string]any) {
	t.Helper()
	sim.Control(t, http.MethodPut, "faults", values, nil)
}

// tryRefresh presents a refresh token and returns the status, 0 for a cut
// connection.
func tryRefresh(t *testing.T, sim *prismasimtest.Server, token string) int {
	t.Helper()
	fields := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {token},
		"client_id": {prismasimtest.ClientID}, "client_secret": {prismasimtest.ClientSecret},
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+"/token", strings.NewReader(fields.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = form()
	request.GetBody = nil // the transport must not send it again
	return tryStatus(t, request)
}

func tryStatus(t *testing.T, request *http.Request) int {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "reset") {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestTokenFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault  string
		status int
		spent  bool
	}{
		"fail before": {"tokenFailBefore", http.StatusServiceUnavailable, false},
		"fail after":  {"tokenFailAfter", http.StatusInternalServerError, true},
		"drop after":  {"tokenDropAfter", 0, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := prismasimtest.Start(t)
			tokens := sim.Connect(t, prismasimtest.WorkspaceA)
			faults(t, sim, map[string]any{tc.fault: 1})
			if status := tryRefresh(t, sim, tokens.Refresh); status != tc.status {
				t.Errorf("status = %d, want %d", status, tc.status)
			}
			row := sim.Ledger(t).RefreshTokens[0]
			if row.Received != 1 || row.Answered != 0 || (row.Processed == 1) != tc.spent || (row.State == "used") != tc.spent {
				t.Errorf("ledger: %+v", row)
			}
			faults(t, sim, map[string]any{tc.fault: 0})
			want := http.StatusOK
			if tc.spent {
				want = http.StatusBadRequest
			}
			if status := tryRefresh(t, sim, tokens.Refresh); status != want {
				t.Errorf("the same token again = %d, want %d", status, want)
			}
		})
	}
}

func TestLostClientIsNotAnswered(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	faults(t, sim, map[string]any{"tokenLatency": "1h"})
	fields := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {tokens.Refresh},
		"client_id": {prismasimtest.ClientID}, "client_secret": {prismasimtest.ClientSecret},
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+"/token", strings.NewReader(fields.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = form()
	transport := &http.Transport{ResponseHeaderTimeout: 100 * time.Millisecond, DisableKeepAlives: true}
	if response, err := transport.RoundTrip(request); err == nil {
		_ = response.Body.Close()
		t.Fatal("it was answered within the latency")
	}
	row := sim.Ledger(t).RefreshTokens[0]
	if row.Received != 1 || row.Processed != 1 || row.Answered != 0 {
		t.Errorf("ledger: %+v", row)
	}
}

func TestAPIFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault  string
		status int
		made   int
	}{
		"fail before": {"apiFailBefore", http.StatusServiceUnavailable, 0},
		"fail after":  {"apiFailAfter", http.StatusInternalServerError, 1},
		"drop after":  {"apiDropAfter", 0, 1},
		"429":         {"api429", http.StatusTooManyRequests, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := prismasimtest.Start(t)
			faults(t, sim, map[string]any{tc.fault: 1})
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+"/v1/projects", strings.NewReader(`{"name":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			request.Header = http.Header{
				"Content-Type": {"application/json"}, "Authorization": {"Bearer " + prismasimtest.ServiceToken},
			}
			if status := tryStatus(t, request); status != tc.status {
				t.Errorf("status = %d, want %d", status, tc.status)
			}
			faults(t, sim, map[string]any{tc.fault: 0})
			list := api(t, sim, http.MethodGet, "/v1/projects", prismasimtest.ServiceToken, nil, http.StatusOK)
			if got := count(t, list, "data"); got != tc.made {
				t.Errorf("%d projects, want %d", got, tc.made)
			}
		})
	}
}

func TestRateLimitTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	faults(t, sim, map[string]any{"api429": 1})
	response := send(t, http.MethodGet, sim.URL+"/v1/me", "", http.Header{"Authorization": {"Bearer " + prismasimtest.ServiceToken}})
	if response.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After = %q", response.Header.Get("Retry-After"))
	}
}

func TestListLag(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	faults(t, sim, map[string]any{"listLag": "30s"})
	shop := newProject(t, sim, prismasimtest.ServiceToken, "shop")
	lists := []string{"/v1/projects", "/v1/databases", "/v1/connections", "/v1/projects/" + shop.project + "/databases"}
	for _, list := range lists {
		body := api(t, sim, http.MethodGet, list, prismasimtest.ServiceToken, nil, http.StatusOK)
		if count(t, body, "data") != 0 {
			t.Errorf("%s shows it at once", list)
		}
	}
	api(t, sim, http.MethodGet, "/v1/projects/"+shop.project, prismasimtest.ServiceToken, nil, http.StatusOK)
	advance(t, sim, "30s")
	for _, list := range lists {
		body := api(t, sim, http.MethodGet, list, prismasimtest.ServiceToken, nil, http.StatusOK)
		if count(t, body, "data") != 1 {
			t.Errorf("%s does not show it after the lag", list)
		}
	}
}

func TestLandLate(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	faults(t, sim, map[string]any{"landLate": "5m"})
	body := map[string]string{"name": "late", "logicalId": "op_1"}
	api(t, sim, http.MethodPost, "/v1/projects", prismasimtest.ServiceToken, body, http.StatusInternalServerError)
	// Reads are not creations: they are answered.
	list := api(t, sim, http.MethodGet, "/v1/projects?logicalId=op_1", prismasimtest.ServiceToken, nil, http.StatusOK)
	if count(t, list, "data") != 0 {
		t.Fatal("it landed at once")
	}
	advance(t, sim, "5m")
	eventually(t, func() bool {
		list := api(t, sim, http.MethodGet, "/v1/databases", prismasimtest.ServiceToken, nil, http.StatusOK)
		return count(t, list, "data") == 1 && text(t, list, "data.0.status") == "ready"
	})
	list = api(t, sim, http.MethodGet, "/v1/projects?logicalId=op_1", prismasimtest.ServiceToken, nil, http.StatusOK)
	if count(t, list, "data") != 1 {
		t.Error("it did not land")
	}
}

func TestLandLateStrikesWhatTheOtherFaultsStrike(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	faults(t, sim, map[string]any{"landLate": "5m", "apiDropAfter": 1})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sim.URL+"/v1/projects", strings.NewReader(`{"createDatabase":false}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + prismasimtest.ServiceToken}}
	if status := tryStatus(t, request); status != 0 {
		t.Errorf("status = %d, want a cut", status)
	}
	faults(t, sim, map[string]any{"apiDropAfter": 0.000001})
	api(t, sim, http.MethodPost, "/v1/projects", prismasimtest.ServiceToken, map[string]any{"createDatabase": false}, http.StatusCreated)
	list := api(t, sim, http.MethodGet, "/v1/projects", prismasimtest.ServiceToken, nil, http.StatusOK)
	if count(t, list, "data") != 1 {
		t.Error("the cut creation landed at once")
	}
}

// eventually polls until done is true, up to ten seconds: for work that goes on
// behind an answer, as a client would see it.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it did not happen within ten seconds")
		}
	}
}

func TestLogicalIDMode(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	body := map[string]any{"logicalId": "op_1", "createDatabase": false}
	first := api(t, sim, http.MethodPost, "/v1/projects", token, body, http.StatusCreated)
	second := api(t, sim, http.MethodPost, "/v1/projects", token, body, http.StatusConflict)
	if text(t, second, "error.code") != "conflict" {
		t.Errorf("code = %s", text(t, second, "error.code"))
	}
	found := api(t, sim, http.MethodGet, "/v1/projects?logicalId=op_1", token, nil, http.StatusOK)
	if text(t, found, "data.0.id") != text(t, first, "data.id") || text(t, found, "data.0.logicalId") != "op_1" {
		t.Error("the filter does not find the first")
	}
	none := api(t, sim, http.MethodGet, "/v1/projects?logicalId=op_2", token, nil, http.StatusOK)
	if count(t, none, "data") != 0 {
		t.Error("the filter finds what is not there")
	}
	project := text(t, first, "data.id")
	database := map[string]any{"projectId": project, "logicalId": "d"}
	api(t, sim, http.MethodPost, "/v1/databases", token, database, http.StatusCreated)
	api(t, sim, http.MethodPost, "/v1/databases", token, database, http.StatusConflict)

	faults(t, sim, map[string]any{"logicalIdMode": "ignored"})
	api(t, sim, http.MethodPost, "/v1/projects", token, body, http.StatusCreated)
	api(t, sim, http.MethodPost, "/v1/databases", token, database, http.StatusCreated)
	all := api(t, sim, http.MethodGet, "/v1/projects?logicalId=op_2", token, nil, http.StatusOK)
	if count(t, all, "data") != 2 || text(t, all, "data.1.logicalId") != "op_1" {
		t.Error("mode ignored filters, or does not show the logicalId")
	}
}

func TestParallelCreatesWithOneLogicalIDMakeOne(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	results := make(chan int, 6)
	for range cap(results) {
		go func() {
			status, _ := sim.Do(t, http.MethodPost, "/v1/projects", prismasimtest.ServiceToken, map[string]any{"logicalId": "op"})
			results <- status
		}()
	}
	made := 0
	for range cap(results) {
		if <-results == http.StatusCreated {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d were made", made)
	}
}
