package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startLimit = 60 * time.Second // generous: the machine may be busy
	stopLimit  = 60 * time.Second
)

// replica is one process of the service.
type replica struct {
	number int
	id     string // in the refresh ledger
	origin string // http://127.0.0.1:port
	log    string // its file
	pid    int
	ended  chan struct{} // closed when it has
	err    error         // how; valid after ended

	mu      sync.Mutex
	healthy bool // as the balancer sees it
}

func (r *replica) setHealthy(ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.healthy = ok
}

func (r *replica) isHealthy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.healthy
}

// spawn starts the program. The kernel ends it with this process; it sends its signal
// when the starting thread ends, so that is kept.
func spawn(program, logFile string, args, env []string) (*replica, error) {
	file, err := os.OpenFile(filepath.Clean(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer file.Close()
	cmd := exec.Command(program, args...) //nolint:gosec,noctx // G204: the program under test; it is ended by signals
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, filepath.Dir(logFile), file, file
	cmd.SysProcAttr = withParent()
	r := &replica{log: logFile, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			r.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			r.err = cmd.Wait()
			close(r.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(program), err)
	}
	return r, nil
}

// signal does nothing to a process that is gone.
func (r *replica) signal(sig syscall.Signal) error {
	select {
	case <-r.ended:
		return nil
	default:
	}
	if err := syscall.Kill(r.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s: %w", sig, err)
	}
	return nil
}

// end sends a signal and waits for the end of the process.
func (r *replica) end(ctx context.Context, sig syscall.Signal) error {
	if err := r.signal(sig); err != nil {
		return err
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-r.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("replica %d does not end within %s of %s", r.number, stopLimit, sig)
	}
}

// said returns the log from an offset on.
func (r *replica) said() string {
	content, err := os.ReadFile(r.log)
	if err != nil {
		return ""
	}
	return string(content)
}

// listening waits until the replica serves and returns where.
func (r *replica) listening(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		for line := range strings.Lines(r.said()) {
			var record struct{ Msg, Listen string }
			if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving" {
				return record.Listen, nil
			}
		}
		select {
		case <-r.ended:
			return "", fmt.Errorf("a replica ends at its start:\n%s", r.said())
		default:
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return "", fmt.Errorf("a replica does not start:\n%s", r.said())
		}
	}
}

// startReplica starts a replica and waits until it serves and has told the database who
// it is. One at a time: it is known by being the new one.
func (w *world) startReplica(ctx context.Context, n numbers) error {
	w.started++
	number := w.started
	known, err := w.replicaIDs(ctx)
	if err != nil {
		return err
	}
	r, err := spawn(w.cfg.Server, filepath.Join(w.dir, fmt.Sprintf("replica-%03d.log", number)),
		[]string{"serve"}, append(w.environment(), n.environment()...))
	if err != nil {
		return err
	}
	r.number = number
	w.mu.Lock()
	w.everyone = append(w.everyone, r)
	w.mu.Unlock()
	listen, err := r.listening(ctx)
	if err != nil {
		return err
	}
	r.origin = "http://" + listen
	deadline, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		now, err := w.replicaIDs(deadline)
		if err != nil {
			return err
		}
		for id := range now {
			if !known[id] {
				r.id = id
				r.setHealthy(true)
				w.mu.Lock()
				w.replicas = append(w.replicas, r)
				w.mu.Unlock()
				return nil
			}
		}
		if err := pause(deadline, 20*time.Millisecond); err != nil {
			return fmt.Errorf("replica %d does not beat: %w", number, err)
		}
	}
}

func (w *world) replicaIDs(ctx context.Context) (map[string]bool, error) {
	found, err := list(ctx, w.db, pgx.RowTo[string], `SELECT id::text FROM app.replicas`)
	known := make(map[string]bool, len(found))
	for _, id := range found {
		known[id] = true
	}
	return known, err
}

// remove takes a replica that is gone out of the balancer.
func (w *world) remove(r *replica) {
	r.setHealthy(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, one := range w.replicas {
		if one == r {
			w.replicas = append(w.replicas[:i:i], w.replicas[i+1:]...)
			return
		}
	}
}

// live lists the replicas that are part of the installation.
func (w *world) live() []*replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*replica(nil), w.replicas...)
}

// kill ends a replica with SIGKILL and notes which refreshes it had in hand: what it
// leaves open is all that its death may cost.
func (w *world) kill(ctx context.Context, r *replica) (inHand int, err error) {
	w.remove(r)
	if err := r.end(ctx, syscall.SIGKILL); err != nil {
		return 0, err
	}
	// A COMMIT that the kernel still sent is on its way to the server.
	if err := pause(ctx, 100*time.Millisecond); err != nil {
		return 0, err
	}
	open, err := w.db.openIntents(ctx, r.id)
	w.expose(open)
	return len(open), err
}

// deploy replaces all replicas by new ones with other numbers.
func (w *world) deploy(ctx context.Context, count int, n numbers) error {
	var group []error
	for _, r := range w.live() {
		w.remove(r)
		group = append(group, r.signal(syscall.SIGTERM))
	}
	if err := errors.Join(group...); err != nil {
		return err
	}
	if err := w.allEnded(ctx); err != nil {
		return err
	}
	w.numbers = n
	for range count {
		if err := w.startReplica(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// allEnded waits for every process that is no longer part of the installation.
func (w *world) allEnded(ctx context.Context) error {
	w.mu.Lock()
	everyone := append([]*replica(nil), w.everyone...)
	live := make(map[*replica]bool)
	for _, r := range w.replicas {
		live[r] = true
	}
	w.mu.Unlock()
	for _, r := range everyone {
		if live[r] {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, stopLimit)
		select {
		case <-r.ended:
		case <-limit.Done():
			cancel()
			return fmt.Errorf("replica %d does not end", r.number)
		}
		cancel()
	}
	return nil
}
