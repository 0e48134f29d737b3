package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrMissed says that the run came to its end and a figure misses its limit.
var ErrMissed = errors.New("a limit of the scoreboard is missed")

// scenario is one kind of trouble.
type scenario struct {
	name  string
	about string
	run   func(ctx context.Context, b *board, w *world) error
}

func scenarios() []scenario {
	return []scenario{
		{"kills", "SIGKILL of replicas under load, with the everyday faults of the token endpoint", kills},
		{"pauses", "SIGSTOP of replicas under load", pauses},
		{"late", "a replica stands still past its leases, and users connect again meanwhile", late},
		{"rolls", "SIGTERM of one replica after the other, behind a balancer", rolls},
		{"crashes", "Postgres crashes and comes back", crashes},
		{"spool", "Postgres crashes, and every replica is killed before it is back", spool},
		{"disk", "Postgres crashes while the spool's disk is full", disk},
		{"cuts", "COMMITs are cut before and after they happen", cuts},
		{"readonly", "the database takes no writes", readonly},
		{"hangups", "callers hang up within 300 ms", hangups},
		{"clocks", "the database's clock jumps", clocks},
		{"failing", "half of the token requests fail, processed or not", failing},
		{"dead", "the token endpoint hangs up on everybody", dead},
		{"stuck", "the token endpoint takes 10 s", stuck},
		{"storm", "many callers on one expired connection", storm},
		{"refused", "many connections refused at once", refused},
		{"leeway", "SIGKILL of replicas that know of a leeway", leeway}, // last: pairs and generations don't match after it
	}
}

// Scenarios lists their names, in the order in which they run.
func Scenarios() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// Run does the whole drill and prints the scoreboard. Errors: ErrMissed; else what kept
// it from coming to an end, which is no verdict about the service.
//
// Everything that it starts is ended when it returns, and by the kernel when the process
// is killed.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.check(); err != nil {
		return err
	}
	b := newBoard(cfg)
	w, err := openWorld(ctx, cfg)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	b.note("%s, fsync on; %d connections; seed %d", w.db.version, len(w.connections), cfg.Seed)
	base, err := w.goroutinesAtRest(ctx)
	if err != nil {
		return err
	}
	w.stopBalancer = w.balance(ctx)
	for _, s := range scenarios() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, s.name) {
			continue
		}
		began := cfg.Now()
		b.note("%s: %s", s.name, s.about)
		if err := s.run(ctx, b, w); err != nil {
			b.losses(w) // they may be why it did not come to its end
			b.print()
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.note("  %.1f s", cfg.Now().Sub(began).Seconds())
	}
	if err := b.summary(ctx, w); err != nil {
		return err
	}
	if err := b.inspect(ctx, w, base); err != nil {
		return err
	}
	b.note("%.0f s in all", cfg.Now().Sub(b.began).Seconds())
	if !b.print() {
		return ErrMissed
	}
	return nil
}
