package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// board collects the figures and prints them.
type board struct {
	out     io.Writer
	began   time.Time
	now     func() time.Time
	timed   bool // figures that depend on how busy the machine is have limits
	figures []figure

	verdicts map[verdict]int
	unstored int
	repeated int
	verified string // the last summary of `ledger verify`
	findings []string
}

// figure is one line of the scoreboard.
type figure struct {
	name     string
	measured string
	limit    string // "": only told
	missed   bool
}

func newBoard(cfg Config) *board {
	return &board{out: cfg.Out, now: cfg.Now, began: cfg.Now(), timed: cfg.Timed, verdicts: make(map[verdict]int)}
}

// note prints a line of progress.
func (b *board) note(format string, args ...any) {
	_, _ = fmt.Fprintf(b.out, format+"\n", args...) // who can't be written to can't be told
}

// add takes a figure to the board. One that depends on how busy the machine is, its limit
// is only a goal in a run that may share it.
func (b *board) add(f figure, loadDependent bool) {
	if loadDependent && !b.timed && f.limit != "" {
		f.measured, f.limit, f.missed = f.measured+"; goal "+f.limit, "", false
	}
	b.figures = append(b.figures, f)
}

// shed is count of what a machine that is too busy may do.
func (b *board) shed(name string, n, limit int, of string) {
	b.add(figure{
		name: name, measured: strings.TrimSpace(fmt.Sprintf("%d %s", n, of)), limit: fmt.Sprint("at most ", limit), missed: n > limit,
	}, true)
}

// count adds a figure whose measure is a number that must not exceed a limit.
func (b *board) count(name string, n, limit int, of string) {
	b.figures = append(b.figures, figure{
		name: name, measured: strings.TrimSpace(fmt.Sprintf("%d %s", n, of)), limit: fmt.Sprint("at most ", limit), missed: n > limit,
	})
}

// exactly adds a figure that must be a number.
func (b *board) exactly(name string, n, want int, of string) {
	b.figures = append(b.figures, figure{
		name: name, measured: strings.TrimSpace(fmt.Sprintf("%d %s", n, of)), limit: fmt.Sprint("exactly ", want), missed: n != want,
	})
}

// within adds a figure whose measure is a time; a limit of 0 is none.
func (b *board) within(name string, took, limit time.Duration) {
	f := figure{name: name, measured: took.Round(time.Millisecond).String()}
	if limit > 0 {
		f.limit, f.missed = "at most "+limit.String(), took > limit
	}
	b.add(f, true)
}

// ratio adds a figure whose measure is a ratio.
func (b *board) ratio(name string, measured, limit float64, of string) {
	b.add(figure{
		name: name, measured: fmt.Sprintf("%.2f %s", measured, of), limit: fmt.Sprintf("at most %.1f", limit), missed: measured > limit,
	}, true)
}

// told adds a line without a limit.
func (b *board) told(name, measured string) {
	b.figures = append(b.figures, figure{name: name, measured: measured})
}

// take takes in a scenario's comparison.
func (b *board) take(found comparison) {
	for v, n := range found.verdicts {
		b.verdicts[v] += n
	}
	b.unstored += found.unstored
	b.repeated += found.repeated
}

// print writes the scoreboard and reports whether every limit was kept.
func (b *board) print() bool {
	kept := true
	b.note("")
	for _, f := range b.figures {
		state := "ok    "
		switch {
		case f.limit == "":
			state = "      "
		case f.missed:
			state, kept = "MISSED", false
		}
		b.note("%s  %-67s %-58s %s", state, f.name, f.measured, f.limit)
	}
	return kept
}

// verify runs `server ledger verify`, as an operator would.
func (b *board) verify(ctx context.Context, w *world, scenario string) error {
	logFile := filepath.Join(w.dir, "ledger-"+scenario+".log")
	p, err := spawn(w.cfg.Server, logFile, []string{"ledger", "verify"}, append(w.environment(),
		"DATABASE_URL="+w.db.as("connect_app", w.db.app, "")))
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.everyone = append(w.everyone, p)
	w.mu.Unlock()
	select {
	case <-p.ended:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.signal(syscall.SIGKILL))
	}
	said := strings.TrimSpace(p.said())
	b.verified, _, _ = strings.Cut(said, ", 0 folds") // of its summary, how much there was
	if i := strings.LastIndexByte(b.verified, '\n'); i >= 0 {
		b.verified = b.verified[i+1:]
	}
	if p.err != nil {
		b.findings = append(b.findings, scenario+": "+said)
		b.note("  ledger verify: %s", said)
	}
	return nil
}

// losses adds what the run as a whole has cost.
func (b *board) losses(w *world) {
	exchanges := int(w.plat.refreshes.Load())
	of := fmt.Sprintf("of %d exchanges", exchanges)
	lost := b.verdicts[lostUnanswered] + b.verdicts[lostWithProcess] + b.verdicts[avoidable] + b.verdicts[silent]
	b.count("avoidable loss", b.verdicts[avoidable], 0, of)
	b.count("silently dead connections", b.verdicts[silent], 0, "")
	b.count("lost in all, by the simulator's count of answers that nobody could store", lost, b.unstored, of)
	b.count("connections whose refresh never came to an end", b.verdicts[unsettled], 0, "")
	b.count("refresh tokens presented twice, but for late retries", b.repeated, 0, of)
	b.count("runs of `ledger verify` with findings", len(b.findings), 0, "("+b.verified+")")
}

// summary adds the figures that hold for the run as a whole.
func (b *board) summary(ctx context.Context, w *world) error {
	b.losses(w)
	wrong, err := w.announcements(ctx)
	if err != nil {
		return err
	}
	b.count("losses not told by exactly one event and one audit row", wrong, 0, fmt.Sprintf("of %d", w.lostSoFar()))
	return nil
}

func (w *world) lostSoFar() (n int) {
	for _, c := range w.connections {
		n += c.lost
	}
	return n
}
