package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// settings are given on the command line, so that they are always this program's
// and not those of the version that made the cluster.
func (s *Server) settings() []string {
	set := []string{
		"listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(s.port),
		"unix_socket_directories=",
		"cluster_name=" + s.site.name(),
		"max_connections=300",
		"password_encryption=scram-sha-256",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_line_prefix=%m [%p] %d ",
		"jit=off", // compiling costs more than it saves on small queries
		// Statements and row values may hold secrets; the log says what failed, not with what.
		"log_min_error_statement=panic",
		"log_error_verbosity=terse",
	}
	if s.site.ephemeral {
		set = append(set,
			"fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0", "max_wal_size=256MB",
			"autovacuum=off", // databases live for seconds, and a worker in a template delays its copies
		)
	}
	args := []string{"-D", s.site.data()}
	for _, v := range set {
		args = append(args, "-c", v)
	}
	return args
}

// run starts the postmaster and waits until it takes connections. errNotReady: it
// ended instead.
func (s *Server) run(ctx context.Context, bin binaries, output io.Writer) error {
	cmd := exec.Command(bin.path("postgres"), s.settings()...) //nolint:gosec,noctx // G204: our own arguments; it outlives ctx
	cmd.Dir, cmd.Env = "/", cleanEnv()
	cmd.SysProcAttr = s.site.attr(syscall.SIGINT)

	var said func() string
	if output == nil {
		f, err := logFile(s.site)
		if err != nil {
			return err
		}
		defer f.Close() // the server has its own descriptor
		before, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("seek in log: %w", err)
		}
		cmd.Stdout, cmd.Stderr = f, f
		said = func() string { return readFrom(f, before) }
	} else {
		t := &tail{next: output}
		cmd.Stdout, cmd.Stderr = t, t
		said = t.String
	}

	p, err := spawn(cmd)
	if err != nil {
		return fmt.Errorf("run postgres: %w", err)
	}
	err = poll(ctx, func() bool {
		select {
		case <-p.exited:
			return true
		default:
		}
		status, err := readPidFile(s.site.data())
		return err == nil && status.pid == p.pid && status.ready
	})
	if err != nil {
		return errors.Join(fmt.Errorf("wait for the server: %w\n%s", err, lastLines(said())), p.stop(ctx))
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%w: %w\n%s", errNotReady, p.err, lastLines(said()))
	default:
	}
	s.process = p
	return nil
}

// tail passes the server's log on and keeps the end of it for an error's text.
type tail struct {
	next io.Writer

	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	const most = 4 << 10
	t.mu.Lock()
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - most; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	t.mu.Unlock()
	return t.next.Write(b) //nolint:wrapcheck // an io.Writer's own error
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}

// readFrom returns what the server has written to the log since an offset, at
// most 64 KiB of it.
func readFrom(f *os.File, offset int64) string {
	b, err := io.ReadAll(io.NewSectionReader(f, offset, 64<<10))
	if err != nil {
		return "(its log cannot be read: " + err.Error() + ")"
	}
	return string(b)
}

// lastLines returns the end of a log, enough to see what went wrong.
func lastLines(s string) string {
	const most = 12
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
