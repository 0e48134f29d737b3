package prismasim

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// realServer makes the real databases. Each has an owner role of the same name
// that cannot log in; each Prisma connection is a login role that becomes that
// owner when it connects, so that one can be deleted and the others keep working
// with everything it made.
//
// Its own role needs CREATEDB and CREATEROLE. It makes itself a member of the
// roles it creates, which Postgres asks of whoever is not a superuser before it
// may give a database to a role or end the sessions of one.
type realServer struct {
	pool    *pgxpool.Pool
	admin   string // the role's name
	host    string
	port    int
	sslMode string // as in the URL; "" leaves it to the client

	// strategy is the clause of CREATE DATABASE for empty databases. A server that syncs
	// nothing to its disk, as those of tests, copies files in half of the time that it
	// takes to log their pages; any other has to wait for checkpoints then.
	strategy string
}

// SQLSTATEs that are acted on.
const (
	sqlUndefinedObject  = "42704"
	sqlDependentObjects = "2BP01"
)

// openRealServer connects and takes CONNECT on the server's common databases
// from PUBLIC, so that no role made here enters them.
func openRealServer(ctx context.Context, databaseURL string) (*realServer, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, errors.New("the simulator's database URL cannot be parsed") // the cause may quote its password
	}
	if strings.HasPrefix(config.ConnConfig.Host, "/") {
		return nil, errors.New("the simulator's database URL must name a TCP host: connection strings are made with it")
	}
	config.MaxConns = 8
	config.MaxConnIdleTime = time.Minute
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect the simulator to Postgres: %w", err)
	}
	server := &realServer{
		pool: pool, admin: config.ConnConfig.User, host: config.ConnConfig.Host, port: int(config.ConnConfig.Port),
		sslMode: sslModeOf(databaseURL),
	}
	var able, copies bool
	err = pool.QueryRow(ctx, `
		SELECT rolsuper OR (rolcreatedb AND rolcreaterole),
		       current_setting('fsync') = 'off' AND current_setting('server_version_num')::int >= 150000
		FROM pg_roles WHERE rolname = current_user`).Scan(&able, &copies)
	if err == nil && !able {
		err = errors.New("its role may not create databases and roles: it needs CREATEDB and CREATEROLE")
	}
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("use the simulator's Postgres: %w", err)
	}
	if copies {
		server.strategy = " STRATEGY file_copy"
	}
	server.closeCommonDatabases(ctx)
	return server, nil
}

// sslModeOf returns the sslmode of a connection URL, "" when it has none.
func sslModeOf(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return ""
	}
	return u.Query().Get("sslmode")
}

func (p *realServer) close() { p.pool.Close() }

// closeCommonDatabases revokes CONNECT from PUBLIC on the maintenance databases,
// where its role may; where it may not, somebody else decides who enters. A
// product's own database on the same server is for its migrations to close.
func (p *realServer) closeCommonDatabases(ctx context.Context) {
	rows, err := p.pool.Query(ctx, `
		SELECT datname FROM pg_database
		WHERE datname IN ('postgres', 'template1') AND pg_has_role(datdba, 'MEMBER')
		  AND has_database_privilege('public', oid, 'CONNECT')`)
	if err != nil {
		return
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	for _, name := range names {
		// Several simulators may do this at once, and one of two simultaneous
		// revocations fails: the other did the work.
		_ = p.exec(ctx, "REVOKE CONNECT ON DATABASE "+quote(name)+" FROM PUBLIC")
	}
}

// address returns host:port of the server.
func (p *realServer) address() string { return net.JoinHostPort(p.host, strconv.Itoa(p.port)) }

// connectionString returns the URL with which a client opens database as role.
func (p *realServer) connectionString(database, role, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, password), Host: p.address(), Path: "/" + database}
	if p.sslMode != "" {
		u.RawQuery = url.Values{"sslmode": {p.sslMode}}.Encode()
	}
	return u.String()
}

// create makes an empty database with its owner role.
func (p *realServer) create(ctx context.Context, name string) error {
	if err := p.createOwner(ctx, name); err != nil {
		return err
	}
	// template0 takes no connections, so that nobody is ever in its way.
	if err := p.exec(ctx, "CREATE DATABASE "+quote(name)+" OWNER "+quote(name)+" TEMPLATE template0"+p.strategy); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return p.closeDatabase(ctx, name)
}

func (p *realServer) createOwner(ctx context.Context, name string) error {
	err := p.exec(ctx, "CREATE ROLE "+quote(name)+" NOLOGIN", "GRANT "+quote(name)+" TO "+quote(p.admin))
	if err != nil {
		return fmt.Errorf("create the owner of %s: %w", name, err)
	}
	return nil
}

// closeDatabase keeps everybody but the owner's members out of a database.
func (p *realServer) closeDatabase(ctx context.Context, name string) error {
	if err := p.exec(ctx, "REVOKE ALL ON DATABASE "+quote(name)+" FROM PUBLIC"); err != nil {
		return fmt.Errorf("close database %s to others: %w", name, err)
	}
	return nil
}

// addLogin makes a login role that acts as the owner of database, and returns its
// password.
func (p *realServer) addLogin(ctx context.Context, database, role string) (password string, err error) {
	password, verifier, err := newPassword()
	if err != nil {
		return "", err
	}
	err = p.exec(ctx,
		"CREATE ROLE "+quote(role)+" LOGIN PASSWORD '"+verifier+"' IN ROLE "+quote(database),
		"GRANT "+quote(role)+" TO "+quote(p.admin),
		"ALTER ROLE "+quote(role)+" SET role TO "+quote(database),
	)
	if err != nil {
		return "", fmt.Errorf("create login role %s: %w", role, err)
	}
	return password, nil
}

// rotateLogin replaces the password of role and ends its sessions.
func (p *realServer) rotateLogin(ctx context.Context, role string) (password string, err error) {
	password, verifier, err := newPassword()
	if err != nil {
		return "", err
	}
	if err := p.exec(ctx, "ALTER ROLE "+quote(role)+" PASSWORD '"+verifier+"'"); err != nil {
		return "", fmt.Errorf("replace the password of %s: %w", role, err)
	}
	return password, p.endSessionsOf(ctx, role)
}

// removeLogin ends role: its password at once, its sessions, then itself. What it
// owns in database, if it ever stepped out of the owner's role, goes to the owner.
func (p *realServer) removeLogin(ctx context.Context, database, role string) error {
	err := p.exec(ctx, "ALTER ROLE "+quote(role)+" NOLOGIN PASSWORD NULL")
	if hasState(err, sqlUndefinedObject) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("close login role %s: %w", role, err)
	}
	if err := p.endSessionsOf(ctx, role); err != nil {
		return err
	}
	err = p.exec(ctx, "DROP ROLE "+quote(role))
	if hasState(err, sqlDependentObjects) {
		err = p.within(ctx, database, func(conn *pgx.Conn) error {
			return execAll(ctx, conn, "REASSIGN OWNED BY "+quote(role)+" TO "+quote(database), "DROP OWNED BY "+quote(role))
		})
		if err == nil {
			err = p.exec(ctx, "DROP ROLE "+quote(role))
		}
	}
	if err != nil {
		return fmt.Errorf("drop login role %s: %w", role, err)
	}
	return nil
}

func (p *realServer) endSessionsOf(ctx context.Context, role string) error {
	if _, err := p.pool.Exec(ctx, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1`, role); err != nil {
		return fmt.Errorf("end the sessions of %s: %w", role, err)
	}
	return nil
}

// drop removes a database with whoever is in it, the login roles given, and its
// owner role if it has one. What is gone already is no error.
func (p *realServer) drop(ctx context.Context, name string, logins []string) error {
	if err := p.exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	for _, role := range append(logins, name) {
		if err := p.exec(ctx, "DROP ROLE IF EXISTS "+quote(role)); err != nil {
			return fmt.Errorf("drop role %s: %w", role, err)
		}
	}
	return nil
}

// present lists the server's databases that are named like ids of this
// simulator, and whether they take connections.
func (p *realServer) present(ctx context.Context) (map[string]bool, error) {
	rows, err := p.pool.Query(ctx, `SELECT datname, datallowconn FROM pg_database WHERE starts_with(datname, $1)`, prefixDatabase)
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	found := map[string]bool{}
	var name string
	var open bool
	_, err = pgx.ForEachRow(rows, []any{&name, &open}, func() error {
		found[name] = open
		return nil
	})
	if err = errors.Join(err, rows.Err()); err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	return found, nil
}

// figures returns the size of a database in bytes and the transactions it has
// seen since the server's statistics began.
func (p *realServer) figures(ctx context.Context, name string) (size, transactions int64, err error) {
	err = p.pool.QueryRow(ctx, `
		SELECT pg_database_size(datname), xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`, name,
	).Scan(&size, &transactions)
	if err != nil {
		return 0, 0, fmt.Errorf("measure database %s: %w", name, err)
	}
	return size, transactions, nil
}

// exec runs statements one by one, each in a transaction of its own: Postgres
// allows CREATE and DROP DATABASE nowhere else.
func (p *realServer) exec(ctx context.Context, statements ...string) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("take a connection: %w", err)
	}
	defer conn.Release()
	return execAll(ctx, conn.Conn(), statements...)
}

// execAll runs statements that must not be prepared. Errors of the server carry
// its message, never the statement, which may hold a password's verifier.
func execAll(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err //nolint:wrapcheck // callers say what was being done
		}
	}
	return nil
}

// within runs fn on a connection of the server's own role inside database.
func (p *realServer) within(ctx context.Context, database string, fn func(*pgx.Conn) error) error {
	config := p.pool.Config().ConnConfig.Copy()
	config.Database = database
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("enter database %s: %w", database, err)
	}
	return errors.Join(fn(conn), conn.Close(context.WithoutCancel(ctx)))
}

// quote writes an identifier for SQL.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// hasState tells whether err is Postgres's answer with this SQLSTATE.
func hasState(err error, state string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == state
}

// scramRounds is Postgres's own default.
const scramRounds = 4096

// newPassword returns a random password and its SCRAM-SHA-256 verifier in
// Postgres's form (RFC 5803): the password itself is in no statement, and so in
// no server log. The verifier's characters need no quoting.
func newPassword() (password, verifier string, err error) {
	password = newSecret()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramRounds, sha256.Size)
	if err != nil {
		return "", "", fmt.Errorf("derive a password verifier: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	verifier = fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramRounds, b64(salt), b64(stored[:]), b64(keyed(salted, "Server Key")))
	return password, verifier, nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
