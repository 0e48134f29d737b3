// Package pooltest puts a PgBouncer in transaction mode before the database of a
// test: Debian's, as it is installed. It runs as an ordinary user, since it refuses
// to run as root, on a loopback port that stays the same over a restart. Like the
// tests' Postgres it must be there: without it the test fails.
package pooltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest"
)

const (
	// startWithin bounds a start, stopWithin a stop.
	startWithin = 20 * time.Second
	stopWithin  = 20 * time.Second
	// lookEvery is the pace at which it is asked whether it listens yet.
	lookEvery = 10 * time.Millisecond
)

// PgBouncer is a pooler that lives until its test ends.
type PgBouncer struct {
	// AppURL and OwnerURL lead to the test's database through the pooler; they hold
	// passwords.
	AppURL, OwnerURL string

	dir     string
	address string
	as      *syscall.Credential // nil: as this process

	mu   sync.Mutex
	cmd  *exec.Cmd // nil: stopped
	done chan struct{}
	log  bytes.Buffer // written by one process at a time, read after its end
}

// Start starts a PgBouncer before db. It has at most that many server connections,
// which all clients of a role share.
func Start(tb testing.TB, db *pgtest.Database, servers int) *PgBouncer {
	tb.Helper()
	p := &PgBouncer{dir: tb.TempDir(), address: freeAddress(tb)}
	p.AppURL, p.OwnerURL = through(tb, db.AppURL, p.address), through(tb, db.OwnerURL, p.address)
	p.as = account(tb)
	p.configure(tb, db, servers)
	p.Start(tb)
	tb.Cleanup(func() { p.Stop(tb) })
	return p
}

// Start starts it again after Stop, at the same address.
func (p *PgBouncer) Start(tb testing.TB) {
	tb.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // Debian's, which ordinary users don't have on PATH
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd := exec.Command(program, filepath.Join(p.dir, "pgbouncer.ini")) //nolint:gosec,noctx // it is ended by Stop
	cmd.Dir, cmd.Stderr, cmd.Stdout = "/", &p.log, &p.log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = attributes(p.as)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("pooltest: start PgBouncer (Debian: apt-get install pgbouncer): %v", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it ends by a signal of ours, or await finds it gone
		close(done)
	}()
	p.cmd, p.done = cmd, done
	p.await(tb)
}

// await waits until it listens.
func (p *PgBouncer) await(tb testing.TB) {
	tb.Helper()
	limit := time.NewTimer(startWithin)
	defer limit.Stop()
	pace := time.NewTicker(lookEvery)
	defer pace.Stop()
	for {
		conn, err := (&net.Dialer{Timeout: startWithin}).DialContext(tb.Context(), "tcp", p.address)
		if err == nil {
			_ = conn.Close() // it was only a look
			return
		}
		select {
		case <-p.done:
			tb.Fatalf("pooltest: PgBouncer ended at once:\n%s", p.log.String())
		case <-limit.C:
			tb.Fatalf("pooltest: PgBouncer does not listen after %s: %v", startWithin, err)
		case <-pace.C:
		}
	}
}

// Stop ends it at once, as its SIGTERM does: clients lose their connections in the
// middle of whatever they do. A second call does nothing.
func (p *PgBouncer) Stop(tb testing.TB) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("pooltest: stop PgBouncer: %v", err)
	}
	select {
	case <-p.done:
	case <-time.After(stopWithin):
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.done
		tb.Errorf("pooltest: PgBouncer did not stop in %s", stopWithin)
	}
	p.cmd = nil
	if tb.Failed() {
		log := p.log.String()
		tb.Logf("the end of PgBouncer's log:\n%s", log[max(0, len(log)-4000):])
	}
}

// configure writes its files, which nobody else may read: one has passwords.
func (p *PgBouncer) configure(tb testing.TB, db *pgtest.Database, servers int) {
	tb.Helper()
	server := parse(tb, db.AppURL)
	var users strings.Builder
	for _, raw := range []string{db.AppURL, db.OwnerURL} {
		role := parse(tb, raw).User
		password, _ := role.Password()
		fmt.Fprintf(&users, "%q %q\n", role.Username(), password)
	}
	// Nothing here helps the service, such as parameters that are to be ignored. A
	// failed login is tried again soon, where the default is 15 s.
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 200
server_login_retry = 1
`, server.Hostname(), server.Port(), parse(tb, p.AppURL).Port(), filepath.Join(p.dir, "users.txt"), servers)
	write := func(name, content string) {
		path := filepath.Join(p.dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
		p.give(tb, path)
	}
	write("pgbouncer.ini", config)
	write("users.txt", users.String())
	if p.as != nil { // the parent that the testing package makes is closed to others
		if err := os.Chmod(filepath.Dir(p.dir), 0o711); err != nil { //nolint:gosec // others may pass, not look
			tb.Fatal(err)
		}
		p.give(tb, p.dir)
	}
}

func (p *PgBouncer) give(tb testing.TB, path string) {
	tb.Helper()
	if p.as == nil {
		return
	}
	if err := os.Chown(path, int(p.as.Uid), int(p.as.Gid)); err != nil {
		tb.Fatal(err)
	}
}

// account is whom it runs as: nobody, when this process is root.
func account(tb testing.TB) *syscall.Credential {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		tb.Fatal(err)
	}
	uid, errUID := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(nobody.Gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		tb.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// freeAddress picks a port outside the range from which the system gives them to
// clients, so that it is still free after a restart.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(22000+rand.IntN(8000))) //nolint:gosec // G404: no secret
		listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(tb.Context()), "tcp", address)
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			tb.Fatal(err)
		}
		return address
	}
	tb.Fatal("pooltest: no free port")
	return ""
}

// through is a URL with another address.
func through(tb testing.TB, raw, address string) string {
	tb.Helper()
	u := parse(tb, raw)
	u.Host = address
	return u.String()
}

func parse(tb testing.TB, raw string) *url.URL {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal("pooltest: the URL of the test database can't be parsed") // the cause would quote the password
	}
	return u
}
