package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/migrations"
)

// server is where the connections of a movable pool lead: a host and port.
type server struct{ addr atomic.Value }

func (s *server) is(c *cluster) { s.addr.Store("127.0.0.1:" + strconv.Itoa(c.port)) }

// openMovable returns a pool whose connections lead to wherever the server is when
// they are made, as those to the name of a failover set do.
func openMovable(t *testing.T, url string, to *server) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
		addr, _ := to.addr.Load().(string)
		if addr == "" {
			return nil, &net.OpError{Op: "dial", Err: errors.New("there is no server")}
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// cluster is a Postgres cluster of a test's own, from the programs on this machine: one
// that can be copied, promoted and restored.
type cluster struct {
	t    *testing.T
	home string // holds data and log; the server's account may enter
	port int
	as   *syscall.Credential // whom root runs it as; nil: as this process
	cmd  *exec.Cmd
	gone chan struct{}

	restored bool // it is ready once it has left recovery
}

// newCluster returns an empty cluster that is not started.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, home: pgtest.TempDir(t), port: freePort(t)}
	ok(t, os.Chmod(c.home, 0o755))
	if os.Geteuid() == 0 {
		account, err := user.Lookup("postgres")
		if err != nil {
			account, err = user.Lookup("nobody")
		}
		ok(t, err)
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		ok(t, err)
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		ok(t, err)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		ok(t, os.Chown(c.home, int(uid), int(gid)))
	}
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // only to learn of a port
	ok(t, err)
	defer l.Close()
	addr, _ := l.Addr().(*net.TCPAddr)
	return addr.Port
}

func (c *cluster) data() string { return filepath.Join(c.home, "data") }

func (c *cluster) url(role, database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", role, c.port, database)
}

// program is one of Postgres's, run by the server's account.
func (c *cluster) program(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
		if len(found) == 0 {
			c.t.Fatalf("%s is not installed: this test needs Postgres's own programs", name)
		}
		path = found[len(found)-1]
	}
	cmd := exec.CommandContext(context.WithoutCancel(c.t.Context()), path, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as, Setpgid: true}
	return cmd
}

func (c *cluster) run(name string, args ...string) {
	c.t.Helper()
	if out, err := c.program(name, args...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// start starts the server and waits until it takes connections.
func (c *cluster) start() {
	c.t.Helper()
	c.cmd = c.program("postgres", "-D", c.data(), "-p", strconv.Itoa(c.port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=50", "-c", "shared_buffers=16MB")
	log, err := os.OpenFile(filepath.Join(c.home, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ok(c.t, err)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	ok(c.t, c.cmd.Start())
	ok(c.t, log.Close())
	gone := make(chan struct{})
	c.gone = gone
	cmd := c.cmd
	go func() {
		_ = cmd.Wait() // stop says how
		close(gone)
	}()
	c.t.Cleanup(func() { c.stop(syscall.SIGINT) })
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for range 1500 {
		if c.ready() {
			return
		}
		select {
		case <-gone:
			c.t.Fatalf("the server ended:\n%s", c.log())
		case <-ticker.C:
		}
	}
	c.t.Fatalf("the server does not answer:\n%s", c.log())
}

// ready reports whether the server takes connections, and writes if it is not a standby.
func (c *cluster) ready() bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url("postgres", "postgres"))
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	var recovering bool
	err = conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering)
	return err == nil && (!c.restored || !recovering)
}

func (c *cluster) log() string {
	text, _ := os.ReadFile(filepath.Join(c.home, "log"))
	return string(text)
}

// stop ends the server if it runs: SIGINT in order, SIGQUIT as by a crash.
func (c *cluster) stop(how syscall.Signal) {
	if c.gone == nil {
		return
	}
	_ = c.cmd.Process.Signal(how) // it may be gone
	<-c.gone
	c.gone = nil
}

// primary returns a started cluster with the schema in a database "connect": a copy of
// one that all of them are copies of.
func primary(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t)
	c.copyPattern()
	c.start()
	return c
}

// pattern is what clusters are copied from: to make one and to migrate it takes seconds
// of two processors.
var pattern struct {
	once sync.Once
	home string // "": it could not be made
}

// copyPattern puts a copy of the pattern's files into the cluster, and makes the pattern
// first if there is none. All copies are one cluster by their system identifier.
func (c *cluster) copyPattern() {
	c.t.Helper()
	pattern.once.Do(func() {
		made := newCluster(c.t)
		made.setUp()
		made.stop(syscall.SIGINT)
		keep := made.home + "-pattern"
		ok(c.t, os.Rename(made.home, keep))
		pattern.home = keep
	})
	if pattern.home == "" {
		c.t.Fatal("there is no cluster to copy")
	}
	c.run("cp", "-a", filepath.Join(pattern.home, "data"), c.data())
}

// removePattern is for the end of the process.
func removePattern() {
	if pattern.home != "" {
		_ = os.RemoveAll(pattern.home)
	}
}

// another returns a started cluster with the schema that is no copy of any other.
func another(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t)
	c.setUp()
	return c
}

// setUp makes the cluster, starts it and migrates its database "connect".
func (c *cluster) setUp() {
	c.t.Helper()
	c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--no-locale", "--wal-segsize", "1")
	c.start()
	c.sql("postgres", `CREATE ROLE connect_owner LOGIN CREATEROLE`, `CREATE DATABASE connect OWNER connect_owner`)
	ok(c.t, migrations.Up(c.t.Context(), c.url("connect_owner", "connect"), migrations.Options{Environment: "test"}))
}

// sql runs statements as the superuser, each in a transaction of its own.
func (c *cluster) sql(database string, statements ...string) {
	c.t.Helper()
	var args []string
	for _, sql := range statements {
		args = append(args, "-c", sql)
	}
	c.run("psql", append(args, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", c.url("postgres", database))...)
}

// copy returns a copy of the running cluster's files, not started.
func (c *cluster) copy(signal string) *cluster {
	c.t.Helper()
	other := newCluster(c.t)
	other.run("pg_basebackup", "-d", c.url("postgres", "postgres"), "-D", other.data(), "-X", "stream", "-c", "fast", "-N")
	other.restored = signal == "recovery.signal"
	other.configure(signal, c.url("postgres", "postgres"))
	return other
}

// configure makes a copied cluster a standby or one that is being restored.
func (c *cluster) configure(signal, primary string) {
	c.t.Helper()
	file := filepath.Join(c.data(), signal)
	ok(c.t, os.WriteFile(file, nil, 0o600))
	if c.as != nil {
		ok(c.t, os.Chown(file, int(c.as.Uid), int(c.as.Gid)))
	}
	conf, err := os.OpenFile(filepath.Join(c.data(), "postgresql.auto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	ok(c.t, err)
	_, err = fmt.Fprintf(conf, "primary_conninfo = '%s'\nrestore_command = 'false'\n", strings.ReplaceAll(primary, "'", "''"))
	ok(c.t, errors.Join(err, conf.Close()))
}

// promote makes a standby the primary.
func (c *cluster) promote() {
	c.t.Helper()
	c.run("pg_ctl", "-D", c.data(), "-w", "promote")
}
