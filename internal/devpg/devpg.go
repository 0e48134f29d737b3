package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// superuser is the role that initdb makes, whoever runs it.
	superuser = "postgres"

	// systemDir takes the clusters of root whose own directory the server's
	// account cannot enter, such as one below /root.
	systemDir = "/var/lib/connect-prisma"

	// startTimeout bounds a Start whose context has no deadline. Recovery after a
	// crash is the slow case; a first start takes about two seconds.
	startTimeout = 60 * time.Second

	// pollEvery is how often a start looks at postmaster.pid or at the lock.
	pollEvery = 10 * time.Millisecond
)

// ErrNotInstalled says that no usable Postgres was found. Test for it with
// errors.Is; its text tells how to install one and that DATABASE_URL can name an
// existing server instead.
var ErrNotInstalled = errors.New("PostgreSQL " + minMajorText + " or newer is not installed: " +
	"on Debian or Ubuntu run `apt-get install postgresql`, on macOS `brew install postgresql@17`, " +
	"or set DATABASE_URL to a server that is already running")

// Config says where and how a server runs.
type Config struct {
	// Dir holds the cluster; it is made when missing. As root the server runs as
	// another account, and when that one cannot enter Dir, the cluster lies in
	// /var/lib/connect-prisma/<hash of Dir> instead. Required.
	Dir string

	// Ephemeral is for tests: nothing is synced to disk, and Dir is removed with
	// all that is in it when the server ends, be it by Stop or by the end of this
	// process.
	Ephemeral bool

	// Logger takes what devpg itself does. Default: nothing is logged.
	Logger *slog.Logger

	// Output takes the server's own log. Default: postgres.log in the cluster's
	// directory, which goes on working when this process is gone.
	Output io.Writer
}

// Server is a running Postgres. It is safe for concurrent use.
type Server struct {
	site     site
	logger   *slog.Logger
	password string
	port     int

	// The rest is nil when another process owns the server.
	lock     *os.File
	process  *process
	watchdog *watchdog

	stopOnce sync.Once
	errStop  error
}

// Start returns the running server of cfg.Dir. It makes the cluster if there is
// none, starts the server if nobody has, and otherwise attaches to the one that
// another Start, in this process or in another, has started.
//
// A first start takes one to two seconds, a later one a few tenths. ctx bounds the
// start only, one minute if it has no deadline; the server lives until Stop or
// until this process ends.
//
// Errors: ErrNotInstalled; else what failed, with the last lines of the server's
// log where it has spoken.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	return start(ctx, cfg, systemDir)
}

func start(ctx context.Context, cfg Config, fallback string) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("devpg: Config.Dir is empty")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}

	where, err := locate(ctx, cfg.Dir, fallback)
	if err != nil {
		return nil, fmt.Errorf("prepare directory of Postgres: %w", err)
	}
	server, err := acquire(ctx, cfg, where)
	if err != nil {
		return nil, fmt.Errorf("start Postgres in %s: %w", where.home, err)
	}
	return server, nil
}

// acquire waits until it either holds the directory's lock, and then starts the
// server, or finds the server of the lock's holder ready.
func acquire(ctx context.Context, cfg Config, where site) (*Server, error) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		lock, err := tryLock(where.path("lock"))
		switch {
		case err == nil:
			server, err := own(ctx, cfg, where, lock)
			if err == nil {
				return server, nil
			}
			if cfg.Ephemeral {
				err = errors.Join(err, os.RemoveAll(where.home))
			}
			return nil, errors.Join(err, lock.Close())
		case !errors.Is(err, errLocked):
			return nil, err
		}
		if server, ok := attach(cfg, where); ok {
			return server, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another process holds %s, but its server does not become ready: %w", where.path("lock"), ctx.Err())
		case <-ticker.C:
		}
	}
}

// attach returns the server that the lock's holder runs, if it is ready.
func attach(cfg Config, where site) (*Server, bool) {
	status, err := readPidFile(where.data())
	if err != nil || !status.ready || !isPostmaster(status.pid, where.data()) {
		return nil, false
	}
	password, err := readLine(where.path("password"))
	if err != nil {
		return nil, false
	}
	cfg.Logger.Debug("attached to a running Postgres", slog.Int("port", status.port), slog.Int("pid", status.pid))
	return &Server{site: where, logger: cfg.Logger, password: password, port: status.port}, true
}

// URL returns a connection string of the superuser "postgres" for a database, over
// TCP on 127.0.0.1 and with the password in it. It is a secret.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.password),
		Host:     "127.0.0.1:" + strconv.Itoa(s.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Port returns the TCP port on 127.0.0.1. It stays the same over restarts.
func (s *Server) Port() int { return s.port }

// Stop ends the server and waits until it is gone: first asking it to disconnect
// its clients and write everything down, and after 15 seconds, or when ctx is done,
// to quit at once and recover at the next start. It never kills, because that
// could leave processes of the server behind.
//
// A server that another Start owns is left running. Calling Stop again gives the
// first call's answer.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		if s.process == nil {
			return
		}
		err := s.process.stop(ctx)
		if err != nil {
			err = fmt.Errorf("stop Postgres: %w", err)
		}
		s.errStop = errors.Join(err, s.release())
		s.logger.DebugContext(ctx, "stopped Postgres", slog.Int("port", s.port))
	})
	return s.errStop
}

// release gives back what an owned server holds. The lock goes last, so that
// nobody starts in a directory that is being removed.
func (s *Server) release() error {
	var err error
	if s.watchdog != nil {
		err = s.watchdog.dismiss()
		s.watchdog = nil
	}
	if s.site.ephemeral {
		err = errors.Join(err, os.RemoveAll(s.site.home))
	}
	return errors.Join(err, s.lock.Close())
}

// logFile opens the file for the server's log, moving a large one aside first.
func logFile(where site) (*os.File, error) {
	const large = 8 << 20
	name := where.path("postgres.log")
	if info, err := os.Stat(name); err == nil && info.Size() > large {
		if err := os.Rename(name, name+".old"); err != nil {
			return nil, fmt.Errorf("move the old log aside: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Clean(name), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}
