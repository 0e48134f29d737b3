package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// acme is where the partners of a world have their apps; nobody goes there.
const acme = "https://acme.example"

// world is an installation as an operator sets it up, with Prisma simulated: nothing
// serves but what the test starts.
type world struct {
	*dev // a partner's view of it; there is no such process

	in *installation
}

// newWorld makes a world with one tenant. change may change the settings with which
// its commands and replicas run.
func newWorld(t *testing.T, change func(in *installation)) *world {
	t.Helper()
	w := &world{in: newInstallation(t)}
	sim := prismasimtest.Start(t, func(c *prismasim.Config) { c.OnClockAdvance = w.advanceDatabase })
	w.in.values["PRISMA_API_URL"], w.in.values["PRISMA_AUTH_URL"] = sim.URL, sim.URL
	change(w.in)
	w.dev = &dev{devInfo: devInfo{PublicURL: w.in.values["PUBLIC_URL"], SimulatorURL: sim.URL, SampleAppURL: acme}}
	w.APIKey = w.newTenant(t, "Acme")
	w.control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	return w
}

// newTenant makes a tenant with an OAuth client and limits that no test reaches, and
// returns a key of it.
func (w *world) newTenant(t *testing.T, name string) string {
	t.Helper()
	tenant := w.in.command(t, prismasimtest.ClientSecret+"\n", "tenant", "create", "--name", name,
		"--client-id", prismasimtest.ClientID, "--client-secret-stdin", "--return-url", acme+"/callback",
		"--requests-per-second", "100000", "--sessions-per-second", "100000", "--creates-per-second", "100000", "--calls-at-once", "100000")
	return w.in.command(t, "", "key", "create", tenant)
}

// as is the world as another tenant sees it.
func (w *world) as(key string) *world {
	other := *w.dev
	other.APIKey = key
	return &world{dev: &other, in: w.in}
}

func (w *world) advanceDatabase(ctx context.Context, by time.Duration) error {
	conn, err := pgx.Connect(ctx, w.in.db.AdminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by)
	return err
}

// count runs a query for one number, past row-level security and every pooler.
func (w *world) count(t *testing.T, sql string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.in.db.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// connected makes that many connections of users of this tenant.
func (w *world) connected(t *testing.T, users string, count int) []connection {
	t.Helper()
	made := make([]connection, count)
	for i := range made {
		made[i] = w.connect(t, fmt.Sprintf("%s-%02d", users, i))
	}
	return made
}

// theirs lists the connections that a key sees, over a client that keeps its
// connections.
func theirs(ctx context.Context, client *http.Client, origin, key string) ([]connection, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+"/v1/connections", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("connections: status %d", response.StatusCode)
	}
	var found struct{ Data []connection }
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return nil, err
	}
	return found.Data, nil
}
