package replicas_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// TestServedToTheLastSafeSecond lets the token endpoint fail while access tokens come to
// their end: both replicas serve them on, to a few seconds before it, then say when to
// come back, and go on by themselves when the endpoint is well again.
func TestServedToTheLastSafeSecond(t *testing.T) {
	t.Parallel()
	w := processtest.NewWorld(t, func(in *processtest.Installation) {
		for name, pause := range map[string]string{ // seconds for minutes
			"HOLD": "100ms", "BACKOFF_TO": "1s", "BREAKER_FROM": "100ms", "BREAKER_TO": "1s", "SUSPECT_PAUSE": "100ms",
			"LATE_FROM": "100ms", "LATE_TO": "1s",
		} {
			in.Values["REFRESH_"+name] = pause
		}
	})
	env := w.Installation.With(nil)
	replicas := []*processtest.Replica{processtest.StartServeAt(t, env, w.Installation.Public), processtest.StartServe(t, env)}
	c := w.Connect(t, "ada")
	db, err := pgx.Connect(t.Context(), w.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	// left sets the access token's end, as far as the service knows.
	left := func(d time.Duration) {
		t.Helper()
		_, err := db.Exec(t.Context(), `UPDATE connections SET access_expires_at = app.wall_clock() + $1::interval,
			access_issued_at = app.wall_clock() + $1::interval - interval '1 hour'`, d)
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(r *processtest.Replica) (int, string) {
		t.Helper()
		status, body := processtest.SendJSON(t, http.MethodGet, r.Origin+"/v1/connections/"+c.ID+"/projects", w.APIKey, nil)
		var problem struct{ Type string }
		_ = json.Unmarshal(body, &problem) // an answer without one has none
		return status, problem.Type
	}
	w.Control(t, http.MethodPut, "faults", map[string]float64{"tokenFailBefore": 1}, nil)

	for _, r := range replicas {
		for range 5 {
			left(10 * time.Second) // calls are answered within the seconds that are kept back
			if status, kind := ask(r); status != http.StatusOK {
				t.Errorf("10 s before its end: status %d, %s", status, kind)
			}
		}
		left(-time.Second)
		if status, kind := ask(r); status != http.StatusServiceUnavailable || kind == "" {
			t.Errorf("after its end: status %d, %q; want a 503 that says why", status, kind)
		}
	}
	var now processtest.Connection
	w.Partner().Call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
	if now.Status == "needs_reconnect" {
		t.Error("an outage of the token endpoint ended the connection")
	}

	w.Control(t, http.MethodPut, "faults", map[string]float64{"tokenFailBefore": 0}, nil)
	for _, r := range replicas {
		processtest.Eventually(t, "the connection is renewed", func() bool {
			status, _ := ask(r)
			return status == http.StatusOK
		})
	}
	saw, used := w.Ledger(t), 0
	for _, token := range saw.RefreshTokens {
		used += token.Processed
	}
	if used != 1 || saw.Counters.Replays != 0 || saw.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v and used %d refresh tokens, want one", saw.Counters, used)
	}
	w.Installation.Command(t, "", "ledger", "verify") // fails with a finding
}
