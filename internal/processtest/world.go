package processtest

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// Acme is where the partners of a world have their apps; nobody goes there.
const Acme = "https://acme.example"

// World is an installation as an operator sets it up, with Prisma simulated: nothing
// serves but what the test starts.
type World struct {
	*Dev // a partner's view of it; there is no such process

	Installation *Installation
	Tenant       string // the first one's id
}

// NewWorld makes a world with one tenant. change may change the settings with which
// its commands and replicas run.
func NewWorld(t *testing.T, change func(in *Installation)) *World {
	t.Helper()
	return NewWorldBehind(t, "", change)
}

// NewWorldBehind is NewWorld where Prisma's authorization server is known by an origin
// from which the test leads to SimulatorURL; "" is that itself.
func NewWorldBehind(t *testing.T, origin string, change func(in *Installation)) *World {
	t.Helper()
	w := &World{Installation: NewInstallation(t)}
	sim := prismasimtest.Start(t, func(c *prismasim.Config) {
		c.OnClockAdvance = w.advanceDatabase
		c.URL = cmp.Or(origin, c.URL)
	})
	w.Installation.Values["PRISMA_API_URL"], w.Installation.Values["PRISMA_AUTH_URL"] = sim.URL, cmp.Or(origin, sim.URL)
	change(w.Installation)
	w.Dev = &Dev{DevInfo: DevInfo{PublicURL: w.Installation.Values["PUBLIC_URL"], SimulatorURL: sim.URL, SampleAppURL: Acme}}
	w.Tenant = w.createTenant(t, "Acme")
	w.APIKey = w.Installation.Command(t, "", "key", "create", w.Tenant)
	w.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	return w
}

// NewTenant makes a tenant with an OAuth client and limits that no test reaches, and
// returns a key of it.
func (w *World) NewTenant(t *testing.T, name string) string {
	t.Helper()
	return w.Installation.Command(t, "", "key", "create", w.createTenant(t, name))
}

func (w *World) createTenant(t *testing.T, name string) string {
	t.Helper()
	args := []string{
		"tenant", "create", "--name", name, "--client-id", prismasimtest.ClientID, "--client-secret-stdin",
		"--return-url", Acme + "/callback",
	}
	if w.Installation.Program == "" { // another version may not have these
		args = append(args, unlimited()...)
	}
	return w.Installation.Command(t, prismasimtest.ClientSecret+"\n", args...)
}

// Unlimit gives the first tenant limits that no test reaches: one that another version
// made has the default ones.
func (w *World) Unlimit(t *testing.T) {
	t.Helper()
	w.Installation.Command(t, "", append([]string{"tenant", "set", w.Tenant}, unlimited()...)...)
}

func unlimited() []string {
	return []string{
		"--requests-per-second", "100000", "--sessions-per-second", "100000", "--creates-per-second", "100000", "--calls-at-once", "100000",
	}
}

// As is the world as another tenant sees it.
func (w *World) As(key string) *World {
	other := *w.Dev
	other.APIKey = key
	return &World{Dev: &other, Installation: w.Installation, Tenant: w.Tenant}
}

func (w *World) advanceDatabase(ctx context.Context, by time.Duration) error {
	conn, err := pgx.Connect(ctx, w.Installation.DB.AdminURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by)
	return err
}

// Count runs a query for one number, past row-level security and every pooler.
func (w *World) Count(t *testing.T, sql string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Connected makes that many connections of users of this tenant.
func (w *World) Connected(t *testing.T, users string, count int) []Connection {
	t.Helper()
	made := make([]Connection, count)
	for i := range made {
		made[i] = w.Connect(t, fmt.Sprintf("%s-%02d", users, i))
	}
	return made
}
