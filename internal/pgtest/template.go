package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/migrations"
)

const (
	ownerRole = "connect_owner" // made here
	appRole   = "connect_app"   // made by the migrations, without a password

	testPrefix     = "connect_test_"
	templatePrefix = "connect_template_"
	buildingPrefix = "connect_template_building_"

	// leftoverAfter is how old a test database is when its test must have been
	// killed.
	leftoverAfter = 6 * time.Hour

	// lockKey is the advisory lock under which roles and templates are made.
	lockKey = 0x70677465_73740001
)

// cluster is a server that is ready for tests.
type cluster struct {
	admin    *url.URL
	template string
	strategy string // clause of CREATE DATABASE

	mu   sync.Mutex
	idle []*pgx.Conn // to the server's own database, as the superuser
}

// newCluster makes the roles and the template of a server, unless another process
// has. The URL must be a superuser's.
func newCluster(ctx context.Context, adminURL string) (*cluster, error) {
	admin, err := url.Parse(adminURL)
	if err != nil || (admin.Scheme != "postgres" && admin.Scheme != "postgresql") {
		return nil, errors.New(EnvURL + " is not of the form postgres://user:password@host:port/database") // the cause would quote the password
	}
	c := &cluster{admin: admin, template: templatePrefix + migrations.Fingerprint()}

	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return nil, fmt.Errorf("connect to the test server: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	var super bool
	var version int
	err = conn.QueryRow(ctx, `SELECT rolsuper, current_setting('server_version_num')::int FROM pg_roles WHERE rolname = current_user`).
		Scan(&super, &version)
	if err != nil {
		return nil, fmt.Errorf("look at the test server: %w", err)
	}
	if !super {
		return nil, errors.New(EnvURL + ": its role must be a superuser, to make the roles that tests run as")
	}
	if version >= 150000 {
		c.strategy = " STRATEGY file_copy" // older ones know no other
	}

	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(lockKey)); err != nil {
		return nil, fmt.Errorf("lock the test server: %w", err)
	}
	if err := c.prepare(ctx, conn); err != nil {
		return nil, fmt.Errorf("prepare the test server: %w", err)
	}
	return c, nil
}

// prepare runs under the advisory lock, so nobody else is building a template.
func (c *cluster) prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := c.sweep(ctx, conn); err != nil {
		return err
	}
	if err := c.makeOwner(ctx, conn); err != nil {
		return err
	}
	exists, err := has(ctx, conn, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, c.template)
	if err != nil {
		return err
	}
	if exists {
		return c.setPassword(ctx, conn, appRole)
	}

	building := buildingPrefix + strings.ToLower(rand.Text()[:10])
	quoted := pgx.Identifier{building}.Sanitize()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+quoted+" OWNER "+ownerRole+" TEMPLATE template0"); err != nil {
		return fmt.Errorf("create template: %w", err)
	}
	err = migrations.Up(ctx, c.url(c.user(ownerRole), building), migrations.Options{Environment: "test"})
	if err == nil {
		err = c.setPassword(ctx, conn, appRole)
	}
	if err == nil {
		_, err = conn.Exec(ctx, "ALTER DATABASE "+quoted+" ALLOW_CONNECTIONS false")
	}
	if err == nil {
		_, err = conn.Exec(ctx, "ALTER DATABASE "+quoted+" RENAME TO "+pgx.Identifier{c.template}.Sanitize())
	}
	if err != nil {
		_, errDrop := conn.Exec(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS "+quoted+" WITH (FORCE)")
		return errors.Join(fmt.Errorf("make template: %w", err), errDrop)
	}
	return nil
}

// sweep drops what killed processes left behind.
func (c *cluster) sweep(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE starts_with(datname, $1) OR starts_with(datname, $2)`,
		testPrefix, buildingPrefix)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, name := range names {
		if !isLeftover(name, time.Now()) {
			continue
		}
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("drop leftover %s: %w", name, err)
		}
	}
	return nil
}

// isLeftover judges by the time in a test database's name. A template that is
// being built is nobody's, because the lock is ours.
func isLeftover(name string, now time.Time) bool {
	if strings.HasPrefix(name, buildingPrefix) {
		return true
	}
	stamp, _, ok := strings.Cut(strings.TrimPrefix(name, testPrefix), "_")
	if !ok {
		return false
	}
	made, err := strconv.ParseInt(stamp, 36, 64)
	return err == nil && now.Sub(time.Unix(made, 0)) > leftoverAfter
}

func (c *cluster) makeOwner(ctx context.Context, conn *pgx.Conn) error {
	exists, err := has(ctx, conn, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, ownerRole)
	if err != nil {
		return err
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE ROLE "+ownerRole+" LOGIN CREATEDB CREATEROLE"); err != nil {
			return fmt.Errorf("create owner: %w", err)
		}
	}
	return c.setPassword(ctx, conn, ownerRole)
}

// setPassword gives a role the password that every process derives for it.
func (c *cluster) setPassword(ctx context.Context, conn *pgx.Conn, role string) error {
	password, _ := c.user(role).Password()
	if _, err := conn.Exec(ctx, "ALTER ROLE "+role+" PASSWORD '"+verifier(password)+"'"); err != nil { // ASCII without quotes
		return fmt.Errorf("set password of %s: %w", role, err)
	}
	return nil
}

// user returns a role with its password. It is derived from the superuser's, so
// that processes that share a server agree without telling each other, and nobody
// can guess it who could not be superuser anyway.
func (c *cluster) user(role string) *url.Userinfo {
	key, _ := c.admin.User.Password()
	return url.UserPassword(role, hex.EncodeToString(mac([]byte(key), "pgtest "+role)[:16]))
}

// url returns a connection string; as nil is the superuser and database "" the one
// of the server's own URL.
func (c *cluster) url(as *url.Userinfo, database string) string {
	u := *c.admin
	if as != nil {
		u.User = as
	}
	if database != "" {
		u.Path, u.RawPath = "/"+database, ""
	}
	return u.String()
}

func has(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (bool, error) {
	var yes bool
	if err := conn.QueryRow(ctx, sql, args...).Scan(&yes); err != nil {
		return false, fmt.Errorf("look at the test server: %w", err)
	}
	return yes, nil
}
