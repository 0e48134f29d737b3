package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	clientID    = "client_drill"
	redirectURI = "http://localhost:8080/oauth/callback"
	returnURL   = "https://partner.example/callback"
)

// world is the installation and all that is around it.
type world struct {
	cfg   Config
	dir   string
	dice  *dice
	db    *database
	wire  *wire
	plat  *platform
	store *tenants.Store
	pool  *pgxpool.Pool // the store's

	tenant tenants.TenantID
	key    string // the API key
	http   *http.Client

	clientSecret       string
	cookieKeys, keyset string
	started            int
	numbers            numbers // of the replicas that run
	small              string  // a mounted disk, "" if there is none
	connections        []*connection
	mu                 sync.Mutex
	replicas, everyone []*replica
	exposed            map[string]int64 // connection to generation: open at a replica that was killed
	stopBalancer       func()
}

// connection is one user's connection, and how the drill knows it at Prisma.
type connection struct {
	id        tenants.ConnectionID
	user      string
	workspace string
	base      int64 // the generation that its grant began with
	grant     string
	first     string // the grant's first refresh token
	lost      int    // how often it had to be connected again
}

func (c *connection) uuid() string { return c.id.UUID.String() }

// openWorld starts everything but the replicas, and connects the users.
func openWorld(ctx context.Context, cfg Config) (_ *world, err error) {
	w := &world{
		cfg: cfg, dice: newDice(cfg.Seed), exposed: make(map[string]int64), stopBalancer: func() {},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1200}, Timeout: 60 * time.Second},
	}
	if w.dir, err = os.MkdirTemp("", "connect-prisma-drill-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.Chmod(w.dir, 0o711); err != nil { //nolint:gosec // G302: Postgres's account must pass here
		return nil, fmt.Errorf("open the directory: %w", err)
	}
	disk := filepath.Join(w.dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	if mountSmall(disk) == nil { // only root may; the scenario of the full disk knows another way
		w.small = disk
	}
	if w.db, err = openDatabase(ctx, filepath.Join(w.dir, "postgres")); err != nil {
		return nil, err
	}
	if w.wire, err = openWire(ctx, w.db.address()); err != nil {
		return nil, err
	}
	w.clientSecret = tenants.RandomToken()
	if w.plat, err = openPlatform(ctx, w.db.server.URL("postgres"), w.seed(), w.dice); err != nil {
		return nil, err
	}
	if err := w.openStore(ctx); err != nil {
		return nil, err
	}
	return w, w.connectAll(ctx)
}

// seed is one user who owns a workspace for each connection.
func (w *world) seed() prismasim.Seed {
	owner := prismasim.User{ID: "user_drill", Email: "drill@example.com", Name: "Drill"}
	seed := prismasim.Seed{Clients: []prismasim.Client{
		{ID: clientID, Name: "Drill", Secret: w.clientSecret, RedirectURIs: []string{redirectURI}},
	}}
	for i := range w.cfg.Counts.Connections {
		id := fmt.Sprintf("wksp_drill%05d", i)
		seed.Workspaces = append(seed.Workspaces, prismasim.Workspace{ID: id, Name: "Drill " + id})
		owner.WorkspaceIDs = append(owner.WorkspaceIDs, id)
	}
	seed.Users = []prismasim.User{owner}
	return seed
}

// openStore makes the tenant, its key and the way to connect users.
func (w *world) openStore(ctx context.Context) error {
	var err error
	if w.keyset, err = sealing.Generate(); err != nil {
		return err
	}
	w.cookieKeys = sealing.GenerateCookieKeys()
	keyset, err := sealing.Parse(w.keyset, environment)
	if err != nil {
		return err
	}
	w.pool, err = pgxpool.New(ctx, w.db.as("connect_app", w.db.app, "")+"&pool_max_conns=8")
	if err != nil {
		return errors.New("the database's URL can't be parsed")
	}
	w.store, err = tenants.NewStore(tenants.Config{Pool: w.pool, Keyset: keyset, Environment: environment, Now: w.cfg.Now})
	if err != nil {
		return err
	}
	tenant, err := w.store.CreateTenant(ctx, tenants.System(), tenants.TenantInput{
		Name: "Drill", ReturnURLs: []string{returnURL}, Client: tenants.OAuthClient{ID: clientID, Secret: w.clientSecret},
		// None that the drill reaches: it is not about them.
		Limits: tenants.Unbound(),
	})
	if err != nil {
		return err
	}
	w.tenant = tenant.ID
	_, w.key, err = w.store.CreateKey(ctx, tenants.System(), tenant.ID, "drill", tenants.AllScopes(), time.Time{})
	return err
}

// environment is what every replica gets, beside the numbers.
func (w *world) environment() []string {
	return []string{
		"DATABASE_URL=" + w.db.as("connect_app", w.db.app, w.wire.address()), "ENVIRONMENT=" + environment,
		"LISTEN_ADDR=127.0.0.1:0", "PUBLIC_URL=http://localhost:8080",
		"PRISMA_API_URL=" + w.plat.url, "PRISMA_AUTH_URL=" + w.plat.url,
		"COOKIE_KEYS=" + w.cookieKeys, "TOKEN_KEYSET=" + w.keyset,
		"SPOOL_DIR=" + w.spoolDir(), "DRAIN_DELAY=1s", "LOG_LEVEL=info",
	}
}

// spoolDir is the replicas' shared spool.
func (w *world) spoolDir() string { return filepath.Join(w.dir, "disk", "spool") }

// expose notes refreshes that were open at a replica that died, or stood still for
// longer than its lease.
func (w *world) expose(open map[string]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, generation := range open {
		w.exposed[id] = max(w.exposed[id], generation)
	}
}

// close ends everything that was started, whatever of it there is.
func (w *world) close(ctx context.Context) error {
	w.stopBalancer()
	var err error
	w.mu.Lock()
	everyone := append([]*replica(nil), w.everyone...)
	w.mu.Unlock()
	for _, r := range everyone {
		err = errors.Join(err, r.signal(syscall.SIGKILL))
	}
	for _, r := range everyone {
		<-r.ended
	}
	if w.plat != nil {
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if w.plat.close(limit) != nil {
			err = errors.Join(err, errors.New("the simulator did not close"))
		}
	}
	if w.wire != nil {
		err = errors.Join(err, w.wire.close())
	}
	if w.pool != nil {
		w.pool.Close()
	}
	if w.db != nil {
		err = errors.Join(err, w.db.close(ctx))
	}
	if w.small != "" {
		err = errors.Join(err, unmount(w.small))
	}
	if w.cfg.Keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}
