package drill

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// canaryLength is how much of a secret has to appear to be found.
const canaryLength = 16

// canaries counts the places in a text that begin one of the secrets.
func canaries(text []byte, secrets []string) (hits int) {
	marks := make(map[[canaryLength]byte]bool, len(secrets))
	for _, secret := range secrets {
		if len(secret) >= canaryLength {
			marks[[canaryLength]byte([]byte(secret[:canaryLength]))] = true
		}
	}
	for i := 0; i+canaryLength <= len(text); i++ {
		if marks[[canaryLength]byte(text[i:i+canaryLength])] {
			hits++
		}
	}
	return hits
}

// goroutinesAtRest starts the replicas of the first scenario, and counts what one of
// them consists of when nothing happens. It ends with the dump that tells.
func (w *world) goroutinesAtRest(ctx context.Context) (int, error) {
	w.numbers = brisk()
	for range w.cfg.Counts.Replicas {
		if err := w.startReplica(ctx, w.numbers); err != nil {
			return 0, err
		}
	}
	if err := pause(ctx, time.Second); err != nil {
		return 0, err
	}
	r := w.live()[0]
	n, err := w.dump(ctx, r)
	if err != nil {
		return 0, err
	}
	return n, w.startReplica(ctx, w.numbers)
}

// dump ends a replica with SIGQUIT, on which Go writes what every goroutine does, and
// counts them.
func (w *world) dump(ctx context.Context, r *replica) (int, error) {
	w.remove(r)
	if err := r.end(ctx, syscall.SIGQUIT); err != nil {
		return 0, err
	}
	return strings.Count(r.said(), "\ngoroutine "), nil
}

// inspect looks at what the replicas leave behind: goroutines, connections to Postgres
// and secrets in their logs and dumps.
func (b *board) inspect(ctx context.Context, w *world, base int) error {
	// Connections that are kept for the next call have goroutines at both ends, hundreds
	// after a storm. Here they end; what is then left has leaked.
	w.http.CloseIdleConnections()
	w.plat.server.SetKeepAlivesEnabled(false)
	if err := pause(ctx, 2*time.Second); err != nil { // what ends with its connection has ended
		return err
	}
	live := w.live()
	open, _, err := w.db.inUse(ctx)
	if err != nil {
		return err
	}
	b.count("Postgres connections open at the end", open, 28*len(live), fmt.Sprintf("by %d replicas", len(live)))
	most := 0
	for _, r := range live {
		n, err := w.dump(ctx, r)
		if err != nil {
			return err
		}
		most = max(most, n)
	}
	// Pools grow to their size and keep a goroutine or two for each connection.
	b.count("goroutines of a replica at the end", most, base+60, fmt.Sprintf("at most; %d in a new one", base))

	secrets := append(w.plat.issued(), w.key, w.clientSecret, w.keyset, w.cookieKeys, w.db.app, w.db.owner)
	hits, size := 0, 0
	files, err := filepath.Glob(filepath.Join(w.dir, "*.log"))
	if err != nil {
		return fmt.Errorf("find the logs: %w", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name) //nolint:gosec // G304: our own directory
		if err != nil {
			return fmt.Errorf("read a log: %w", err)
		}
		hits, size = hits+canaries(text, secrets), size+len(text)
	}
	b.count("secrets in the logs and dumps", hits, 0, fmt.Sprintf("of %d, in %d files of %d KB", len(secrets), len(files), size/1024))
	return nil
}
