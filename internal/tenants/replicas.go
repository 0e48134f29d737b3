package tenants

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

const (
	// beatQuick is the pace of beats with a leeway, when another replica decides by
	// them that this one is dead; beatSlow without, when they only watch the database.
	beatQuick = time.Second
	beatSlow  = 5 * time.Second
	// missedBeats in a row make a replica count as dead.
	missedBeats = 3
	// replicaForgotten is when the row of a replica that ended without removing it goes.
	replicaForgotten = 30 * 24 * time.Hour
	// leewayMargin is kept of the authorization server's leeway: the retry has to
	// arrive before its end.
	leewayMargin = 2 * time.Second
)

// beatScope is short: a beat that is late is worth nothing.
func beatScope() postgres.Scope {
	return postgres.Scope{Lock: time.Second, Statement: 2 * time.Second}
}

// Beat tells the other replicas that this one lives, and looks whether the database
// is still the one that token requests may be sent from. It makes the decisions about
// that which a replica can make by itself. One caller at a time.
func (s *Store) Beat(ctx context.Context) error {
	var seen sight
	var position int64 // of the log, before this commit makes it durable
	beat := s.fence.nextBeat()
	err := postgres.InTx(ctx, s.beatPool, beatScope(), func(tx pgx.Tx) error {
		var err error
		if seen, err = s.lookAndBegin(ctx, tx); err != nil {
			return err
		}
		if s.fence.isLost() {
			return nil // its row is the evidence
		}
		err = tx.QueryRow(ctx, `
			INSERT INTO app.replicas (id, beat, beat_every, beat_at, seal_keys, fingerprint_keys)
			VALUES ($1, $2, $3, app.wall_clock(), $4, $5)
			ON CONFLICT (id) DO UPDATE SET beat = excluded.beat, beat_every = excluded.beat_every, beat_at = excluded.beat_at,
				seal_keys = excluded.seal_keys, fingerprint_keys = excluded.fingerprint_keys
			RETURNING app.wal_position()`,
			s.replica, beat, s.beatEvery(), keyArray(s.keyset.SealKeys()), keyArray(s.keyset.FingerprintKeys())).Scan(&position)
		if err != nil {
			return fmt.Errorf("beat: %w", err)
		}
		return nil
	})
	s.fence.notice(err)
	if err != nil {
		return err
	}
	s.fence.acknowledged(beat)
	s.fence.judge(ctx, seen)
	if mark, open := s.fence.mark(seen, position); open {
		s.marks.write(ctx, mark)
	}
	return s.follow(ctx, seen)
}

// KeepBeating beats once, and then once a second with a leeway or each five seconds
// without, until ctx ends. The database's absence is told by everything else that
// needs it, so here it is only noted.
func (s *Store) KeepBeating(ctx context.Context) {
	ticker := time.NewTicker(s.beatEvery())
	defer ticker.Stop()
	cleaned := false
	for {
		err := s.Beat(ctx)
		if err == nil && !cleaned {
			err = s.forgetReplicas(ctx)
			cleaned = err == nil
		}
		if err != nil && ctx.Err() == nil {
			s.fence.log.DebugContext(ctx, "no beat", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// EndBeats removes this replica's row, once it holds no intent any more.
func (s *Store) EndBeats(ctx context.Context) error {
	if err := s.Beat(ctx); err != nil { // the last mark, after the last save
		return fmt.Errorf("end beats: %w", err)
	}
	err := postgres.InTx(ctx, s.beatPool, beatScope(), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM app.replicas WHERE id = $1`, s.replica)
		return err
	})
	if err != nil {
		return fmt.Errorf("end beats: %w", err)
	}
	s.fence.restart()
	return nil
}

func (s *Store) forgetReplicas(ctx context.Context) error {
	return postgres.InTx(ctx, s.beatPool, beatScope(), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM app.replicas WHERE beat_at < app.wall_clock() - $1::interval AND id <> $2`,
			replicaForgotten, s.replica)
		if err != nil {
			return fmt.Errorf("forget old replicas: %w", err)
		}
		return nil
	})
}

func (s *Store) beatEvery() time.Duration {
	if s.leeway > 0 {
		return beatQuick
	}
	return beatSlow
}

// inLeeway reports whether an open intent may be presented again at once, and for how
// long a request may still be begun: its owner has stopped beating, and the
// authorization server surely still takes a token that was used when the intent was
// written. Only once for a generation.
func (t *TokenStorage) inLeeway(ctx context.Context, tx pgx.Tx, row tokenRow, now time.Time) (time.Duration, error) {
	if t.store.leeway == 0 || row.intentGeneration == nil || row.intentAt == nil || row.leaseOwner == nil ||
		*row.leaseOwner == t.store.replica || row.retries() > 0 {
		return 0, nil
	}
	left := row.intentAt.Add(t.store.leeway - leewayMargin).Sub(now)
	if left <= 0 {
		return 0, nil
	}
	dead, err := silent(ctx, tx, *row.leaseOwner)
	if err != nil || !dead {
		return 0, err
	}
	return left, nil
}

// silent reports whether a replica missed its beats, or said good-bye. It beats at a
// pace of its own: two replicas may have other settings for a while.
func silent(ctx context.Context, tx pgx.Tx, replica uuid.UUID) (bool, error) {
	var dead bool
	err := tx.QueryRow(ctx, `
		SELECT NOT EXISTS (SELECT FROM app.replicas WHERE id = $1 AND beat_at + $2 * beat_every >= app.wall_clock())`,
		replica, missedBeats).Scan(&dead)
	if err != nil {
		return false, fmt.Errorf("look for a replica's beats: %w", err)
	}
	return dead, nil
}
