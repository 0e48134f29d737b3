package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/migrations"
)

const (
	databaseName = "connect_drill"
	environment  = "test" // may move its clock, and talk to Prisma by plain http
)

// database is a private Postgres that keeps what it has acknowledged: fsync and
// synchronous_commit are on, as they are by default.
type database struct {
	dir     string
	server  *devpg.Server
	version string
	files   string // its data directory

	owner, app string        // passwords
	admin      *pgxpool.Pool // a superuser, past the wire and past row-level security
}

// openDatabase makes the cluster, the roles and the schema.
func openDatabase(ctx context.Context, dir string) (*database, error) {
	d := &database{dir: dir, owner: rand.Text(), app: rand.Text()}
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(err, d.close(ctx))
	}
	return d, nil
}

func (d *database) start(ctx context.Context) error {
	server, err := devpg.Start(ctx, devpg.Config{Dir: d.dir})
	if err != nil {
		return err
	}
	d.server = server
	return nil
}

func (d *database) prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.server.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var fsync, commits string
	err = conn.QueryRow(ctx, `SELECT current_setting('data_directory'), split_part(version(), ' on ', 1),
		current_setting('fsync'), current_setting('synchronous_commit')`).Scan(&d.files, &d.version, &fsync, &commits)
	if err != nil {
		return fmt.Errorf("look at Postgres: %w", err)
	}
	if fsync != "on" || commits != "on" {
		return errors.New("this Postgres does not keep what it acknowledges")
	}
	for _, sql := range []string{ // passwords are letters and digits of our own
		"CREATE ROLE connect_owner LOGIN CREATEROLE PASSWORD '" + d.owner + "'",
		"CREATE ROLE connect_app LOGIN NOINHERIT PASSWORD '" + d.app + "'",
		"CREATE DATABASE " + databaseName + " OWNER connect_owner",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("prepare the database: %w", err)
		}
	}
	if err := migrations.Up(ctx, d.as("connect_owner", d.owner, ""), migrations.Options{Environment: environment}); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(d.server.URL(databaseName) + "&pool_max_conns=12")
	if err != nil {
		return errors.New("the database's URL can't be parsed") // pgx's own text quotes parts of it
	}
	if d.admin, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("open pool: %w", err)
	}
	return nil
}

// as is the way into the database as a role; at, if not "", replaces host and port.
func (d *database) as(role, password, at string) string {
	u, err := url.Parse(d.server.URL(databaseName))
	if err != nil {
		return ""
	}
	u.User = url.UserPassword(role, password)
	if at != "" {
		u.Host = at
	}
	return u.String()
}

func (d *database) address() string { return "127.0.0.1:" + strconv.Itoa(d.server.Port()) }

// crash ends Postgres at once: by an immediate shutdown, or by killing its postmaster.
// Both leave what was not committed behind, and recovery to the next start.
func (d *database) crash(ctx context.Context, sig syscall.Signal) error {
	content, err := os.ReadFile(filepath.Join(d.files, "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("find the postmaster: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid < 2 {
		return errors.New("postmaster.pid holds no process id")
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("crash Postgres: %w", err)
	}
	return d.server.Stop(ctx) // it is going; this waits, and gives its directory back
}

func (d *database) close(ctx context.Context) error {
	if d.admin != nil {
		d.admin.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 40*time.Second)
	defer cancel()
	return errors.Join(d.server.Stop(ctx), os.RemoveAll(filepath.Dir(d.files)))
}

// list reads rows past row-level security.
func list[T any](ctx context.Context, d *database, fn pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := d.admin.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	found, err := pgx.CollectRows(rows, fn)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return found, nil
}

// age makes the access token of connections older than it is, as far as the service
// knows: its hour ends that much from now. Connections whose refresh is under way or
// open are left alone. It returns how many there were.
func (d *database) age(ctx context.Context, left time.Duration, ids ...string) (int64, error) {
	tag, err := d.admin.Exec(ctx, `
		UPDATE connections SET access_expires_at = app.wall_clock() + $2::interval,
			access_issued_at = app.wall_clock() + $2::interval - interval '1 hour'
		WHERE id = ANY ($1::uuid[]) AND intent_generation IS NULL AND status IN ('active', 'suspect')`, ids, left)
	if err != nil {
		return 0, fmt.Errorf("age connections: %w", err)
	}
	return tag.RowsAffected(), nil
}

// openIntents lists the connections whose refresh is open at that replica, and with
// which generation.
func (d *database) openIntents(ctx context.Context, replica string) (map[string]int64, error) {
	type intent struct {
		ID         string
		Generation int64
	}
	found, err := list(ctx, d, pgx.RowToStructByPos[intent], `
		SELECT id::text, generation FROM connections
		WHERE lease_owner = $1::uuid AND intent_generation = generation`, replica)
	if err != nil {
		return nil, err
	}
	open := make(map[string]int64, len(found))
	for _, one := range found {
		open[one.ID] = one.Generation
	}
	return open, nil
}

// jump moves the database's clock.
func (d *database) jump(ctx context.Context, by time.Duration) error {
	if _, err := d.admin.Exec(ctx, `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by); err != nil {
		return fmt.Errorf("move the database's clock: %w", err)
	}
	return nil
}

// readOnly makes every new transaction fail that writes, as on a full disk.
func (d *database) readOnly(ctx context.Context, on bool) error {
	setting := "off"
	if on {
		setting = "on"
	}
	for _, sql := range []string{
		"ALTER ROLE connect_app SET default_transaction_read_only = " + setting,
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'connect_app'", // sessions keep the old setting
	} {
		if _, err := d.admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("make the database read-only: %w", err)
		}
	}
	return nil
}

// inUse counts the service's connections to the database, and those that work.
func (d *database) inUse(ctx context.Context) (open, busy int, err error) {
	err = d.admin.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE state <> 'idle')
		FROM pg_stat_activity WHERE usename = 'connect_app' AND application_name LIKE 'connect-prisma%'`).Scan(&open, &busy)
	if err != nil {
		return 0, 0, fmt.Errorf("count connections: %w", err)
	}
	return open, busy, nil
}
