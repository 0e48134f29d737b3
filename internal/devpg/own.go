package devpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// Ports are taken from below the range that kernels give to outgoing
	// connections, so that a kept port is still free at the next start.
	lowPort, highPort = 20000, 30000

	// portTries bounds the search when several servers start at once.
	portTries = 8
)

// errNotReady: the server ended before it took connections.
var errNotReady = errors.New("the server ended before it was ready")

// own starts the server of a directory whose lock this process holds.
func own(ctx context.Context, cfg Config, where site, lock *os.File) (*Server, error) {
	where.ephemeral = cfg.Ephemeral
	s := &Server{site: where, logger: cfg.Logger, lock: lock}

	if err := s.beginAnew(ctx); err != nil {
		return nil, err
	}
	bin, err := s.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.clear(ctx); err != nil {
		return nil, err
	}

	kept, err := s.keptPort(ctx)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		s.port = kept
		if kept == 0 {
			if s.port, err = freePort(ctx); err != nil {
				return nil, err
			}
		}
		err = s.run(ctx, bin, cfg.Output)
		if err == nil {
			break
		}
		// Another program may have taken the port between our look and the bind.
		if kept != 0 || try == portTries || !errors.Is(err, errNotReady) || portFree(ctx, s.port) == nil {
			return nil, err
		}
	}
	if kept == 0 {
		if err := writeFile(where, "port", strconv.Itoa(s.port)); err != nil {
			return nil, errors.Join(err, s.process.stop(ctx))
		}
	}
	if s.watchdog, err = watch(where, s.process.pid); err != nil {
		return nil, errors.Join(err, s.process.stop(ctx))
	}
	go s.keep()
	s.logger.DebugContext(ctx, "started Postgres", slog.Int("port", s.port), slog.Int("pid", s.process.pid))
	return s, nil
}

// keep holds on to s while its server runs: a caller may need the URL alone and
// drop s, and the garbage collector would then close the lock and the watchdog's
// pipe, which ends the server.
func (s *Server) keep() {
	<-s.process.exited
	runtime.KeepAlive(s)
}

// beginAnew removes a cluster that lies apart from its directory when that one is gone:
// people remove a data directory to begin anew, and keys and data have to go together.
// Both places hold the same random text. A cluster without one is taken as it is.
func (s *Server) beginAnew(ctx context.Context) error {
	if s.site.of == "" || s.site.ephemeral {
		return nil
	}
	const name = "belongs-together"
	theirs, err := readLine(filepath.Join(s.site.of, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ours, err := readLine(s.site.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist): // a new cluster, or one from before there were marks
	case err != nil:
		return err
	case ours == theirs:
		return nil
	default:
		s.logger.WarnContext(ctx, "the data directory was removed; so is its cluster", slog.String("cluster", s.site.home))
		if err := s.clear(ctx); err != nil {
			return err
		}
		for _, part := range []string{"data", "password", "port"} {
			if err := os.RemoveAll(s.site.path(part)); err != nil {
				return fmt.Errorf("remove the cluster of a directory that is gone: %w", err)
			}
		}
	}
	if theirs == "" {
		theirs = rand.Text()
	}
	if err := os.MkdirAll(s.site.of, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	// This order: cut in between, the next start sees the same again.
	if err := writeFile(site{home: s.site.of}, name, theirs); err != nil {
		return err
	}
	return writeFile(s.site, name, theirs)
}

// prepare reads or makes the password and the cluster, and finds the binaries that
// open it.
func (s *Server) prepare(ctx context.Context) (binaries, error) {
	exists, want := hasCluster(s.site.home), 0
	if exists {
		version, err := readLine(filepath.Join(s.site.data(), "PG_VERSION"))
		if err != nil {
			return binaries{}, err
		}
		if want, err = strconv.Atoi(version); err != nil {
			return binaries{}, fmt.Errorf("read PG_VERSION: %w", err)
		}
	}
	bin, err := findBinaries(ctx, installedIn(), want)
	if err != nil {
		return binaries{}, err
	}

	s.password, err = readLine(s.site.path("password"))
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && !exists:
		// Written before the cluster is made, so that no cluster is ever without.
		s.password = rand.Text()
		if err := writeFile(s.site, "password", s.password); err != nil {
			return binaries{}, err
		}
	default:
		return binaries{}, fmt.Errorf("read the superuser's password (without it the cluster cannot be used): %w", err)
	}

	if !exists {
		err = s.initdb(ctx, bin)
	}
	return bin, err
}

// initdb makes the cluster under another name and renames it when it is whole.
func (s *Server) initdb(ctx context.Context, bin binaries) error {
	left, err := filepath.Glob(s.site.path("data.init-*"))
	if err != nil {
		return fmt.Errorf("look for unfinished clusters: %w", err)
	}
	for _, dir := range append(left, s.site.data()) { // a data without PG_VERSION is no cluster
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unfinished cluster: %w", err)
		}
	}

	dir, err := os.MkdirTemp(s.site.home, "data.init-")
	if err != nil {
		return fmt.Errorf("make directory of the cluster: %w", err)
	}
	if err := s.site.give(dir); err != nil {
		return err
	}
	args := []string{
		"--pgdata", dir, "--username", superuser, "--pwfile", s.site.path("password"),
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions",
	}
	if s.site.ephemeral {
		args = append(args, "--no-sync")
	}
	var out bytes.Buffer
	cmd := exec.Command(bin.path("initdb"), args...) //nolint:gosec,noctx // G204: our own arguments; ctx is watched below, by group
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", cleanEnv(), &out, &out
	cmd.SysProcAttr = s.site.attr(syscall.SIGKILL)
	p, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("run initdb: %w", err)
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // initdb has children; half a cluster is removed anyway
		<-p.exited
		return errors.Join(fmt.Errorf("run initdb: %w", ctx.Err()), os.RemoveAll(dir))
	}
	if p.err != nil {
		return errors.Join(fmt.Errorf("run initdb: %w\n%s", p.err, lastLines(out.String())), os.RemoveAll(dir))
	}
	// No replication, no ::1, no sockets: only what listens.
	hba := filepath.Join(dir, "pg_hba.conf")
	if err := os.WriteFile(hba, []byte("host all all 127.0.0.1/32 scram-sha-256\n"), 0o600); err != nil {
		return fmt.Errorf("write pg_hba.conf: %w", err)
	}
	if err := os.Rename(dir, s.site.data()); err != nil {
		return fmt.Errorf("put the new cluster in place: %w", err)
	}
	return nil
}

// clear makes way for a new postmaster: it ends one that outlived its owner, waits
// for the children of one that was killed, and removes a postmaster.pid whose
// process is gone or another program by now, which Postgres itself would take for
// a running server.
func (s *Server) clear(ctx context.Context) error {
	status, err := readPidFile(s.site.data())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && isPostmaster(status.pid, s.site.data()) {
		s.logger.WarnContext(ctx, "ending a Postgres that outlived its owner", slog.Int("pid", status.pid))
		if err := syscall.Kill(status.pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the Postgres that outlived its owner: %w", err)
		}
	}
	err = poll(ctx, func() bool {
		return (status.pid == 0 || !isPostmaster(status.pid, s.site.data())) && !hasProcesses(s.site.name())
	})
	if err != nil {
		return fmt.Errorf("wait for the end of a server that nobody owns: %w", err)
	}
	err = os.Remove(filepath.Join(s.site.data(), pidFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale postmaster.pid: %w", err)
	}
	return nil
}

// keptPort returns the port of earlier starts, or 0 if there was none.
func (s *Server) keptPort(ctx context.Context) (int, error) {
	name := s.site.path("port")
	text, err := readLine(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return 0, fmt.Errorf("%s holds no port number", name)
	}
	if err := portFree(ctx, port); err != nil {
		return 0, fmt.Errorf("port %d of this cluster is in use by another program: end that one, or remove %s "+
			"to have another port chosen (connection strings given out so far then stop working): %w", port, name, err)
	}
	return port, nil
}

// freePort picks a port that nobody listens on.
func freePort(ctx context.Context) (int, error) {
	var err error
	for range 100 {
		n, errRand := rand.Int(rand.Reader, big.NewInt(highPort-lowPort))
		if errRand != nil {
			return 0, fmt.Errorf("pick a port: %w", errRand)
		}
		port := lowPort + int(n.Int64())
		if err = portFree(ctx, port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("pick a port: %w", err)
}

func portFree(ctx context.Context, port int) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return l.Close() //nolint:wrapcheck // closing a listener does not fail
}

// poll waits until done says so; its error is ctx's.
func poll(ctx context.Context, done func() bool) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

// writeFile writes one line, whole or not at all, readable by the server's account
// and nobody else.
func writeFile(where site, name, line string) error {
	f, err := os.CreateTemp(where.home, name+".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = io.WriteString(f, line+"\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = where.give(f.Name())
	}
	if err == nil {
		err = os.Rename(f.Name(), where.path(name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
	}
	return nil
}

// readLine returns a small file's text without the end of its line.
func readLine(name string) (string, error) {
	b, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
