package prisma

import (
	"context"
	"log/slog"
	"time"
)

// Spool keeps fresh pairs on something else than their storage while that can't take
// them, so that the death of this process does not lose them as well. What is kept is
// the only live copy of a refresh token: an implementation encrypts it, and its error
// texts name no part of it.
type Spool interface {
	// Keep makes a fresh pair durable. It is called once for an exchange, as soon as
	// the first attempt to save its pair has failed, and runs beside the further
	// attempts: neither its slowness nor its failure stops them.
	//
	// conn is the connection, with the storage that could not take the pair; claim and
	// fresh are what Save was given, fresh.Generation being claim.Current.Generation + 1
	// in a storage that counts. Whoever replays the entry calls Save with both: it
	// stores the pair only if it is still awaited, and otherwise says ErrSuperseded,
	// after which the entry is of no use.
	//
	// ctx ends after RefreshSettings.WriteAttempt and never with a caller. When Keep
	// returns without an error the pair must have reached the disk; done then removes
	// it again. done is called once at most, after the pair was stored or superseded,
	// and not at all when this process gives up: then the entry is for its successor. A
	// spool that goes on trying after an error returns done beside it, to be told when
	// to stop.
	// Save may have succeeded before Keep returns, and may be repeated by a reader of
	// the spool while the refresher still tries: both are harmless.
	Keep(ctx context.Context, conn Connection, claim Claim, fresh Tokens) (done func(), err error)
}

// spooling is the spool's part in one save that goes badly. The nil *spooling is that
// of a save that went well at once.
type spooling struct {
	over chan bool     // gets whether the pair has been stored or superseded
	kept chan struct{} // closed once Keep has returned
	safe bool          // whether it kept the pair; to be read after kept
}

// spool begins to keep the fresh pair beside the attempts to save it. It returns nil
// without a spool.
func (r *Refresher) spool(ctx context.Context, conn Connection, claim Claim, fresh Tokens) *spooling {
	if r.spools == nil {
		return nil
	}
	s := &spooling{over: make(chan bool, 1), kept: make(chan struct{})}
	go func() { // a disk may hang, and the save must not hang with it
		done, err := r.keep(ctx, conn, claim, fresh)
		if err != nil {
			r.logger.ErrorContext(ctx, "refreshed tokens can't be spooled", slog.String("connection", conn.Key),
				slog.Int64("generation", fresh.Generation), slog.Any("error", err))
		}
		s.safe = err == nil
		close(s.kept)
		if <-s.over && done != nil {
			r.unspool(ctx, conn, done)
		}
	}()
	return s
}

// end ends the spool's part. An entry is removed if the pair was stored or superseded.
func (s *spooling) end(settled bool) {
	if s != nil {
		s.over <- settled
	}
}

// isSafe reports whether the spool has the pair; it waits for that, but not long.
func (s *spooling) isSafe() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.kept:
		return s.safe
	case <-time.After(lastWords / 2):
		return false
	}
}

// keep makes the one call of Keep. A panic in it counts as its failure.
func (r *Refresher) keep(ctx context.Context, conn Connection, claim Claim, fresh Tokens) (done func(), err error) {
	defer r.recoverPanic(ctx, conn, &err)
	ctx, cancel := context.WithTimeout(ctx, r.settings.WriteAttempt)
	defer cancel()
	return r.spools.Keep(ctx, conn, claim, fresh)
}

// unspool removes an entry that is not needed any more.
func (r *Refresher) unspool(ctx context.Context, conn Connection, done func()) {
	var err error // logged by recoverPanic, and all that is lost is a superfluous file
	defer r.recoverPanic(ctx, conn, &err)
	done()
}
