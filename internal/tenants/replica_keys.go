package tenants

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// ReplicaKeys are the keys of a replica that lives: what it writes with first.
type ReplicaKeys struct {
	Replica           uuid.UUID
	At                time.Time // of its last beat
	Seal, Fingerprint []uint32  // nil: it is of a version that does not say
}

// ReplicaKeys lists the replicas that live, but for this process.
func (s *Store) ReplicaKeys(ctx context.Context) ([]ReplicaKeys, error) {
	var all []ReplicaKeys
	err := s.inNobody(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, beat_at, seal_keys, fingerprint_keys FROM app.replicas
			WHERE id <> $1 AND beat_at + $2 * beat_every >= app.wall_clock() ORDER BY id`, s.replica, missedBeats)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (ReplicaKeys, error) {
			var r ReplicaKeys
			var seal, fingerprint []int64
			err := row.Scan(&r.Replica, &r.At, &seal, &fingerprint)
			r.Seal, r.Fingerprint = keysOf(seal), keysOf(fingerprint)
			return r, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the replicas' keys: %w", err)
	}
	return all, nil
}

// CheckReplicaKeys returns a fault.Conflict if a replica that lives could not read what this
// store writes, or this store not what it writes: then a key would be written with before
// everybody has it. Replicas of versions that do not say what they have count as such only
// if all are to be known.
func (s *Store) CheckReplicaKeys(ctx context.Context, all bool) error {
	replicas, err := s.ReplicaKeys(ctx)
	if err != nil {
		return err
	}
	for _, r := range replicas {
		for _, kind := range []struct {
			name         string
			ours, theirs []uint32
		}{
			{"sealing", s.keyset.SealKeys(), r.Seal}, {"fingerprint", s.keyset.FingerprintKeys(), r.Fingerprint},
		} {
			detail := ""
			switch {
			case len(kind.theirs) == 0:
				if all {
					detail = fmt.Sprintf("The replica %s runs a version that does not say which keys it has; upgrade it first.", r.Replica)
				}
			case !slices.Contains(kind.theirs, kind.ours[0]):
				detail = fmt.Sprintf("The replica %s does not have the %s key %d, which would be written with: give it, and all others, "+
					"the keyset in which that key is added and not promoted, and restart them first. (A replica that was killed counts for 15 s.)",
					r.Replica, kind.name, kind.ours[0])
			case !slices.Contains(kind.ours, kind.theirs[0]):
				detail = fmt.Sprintf("The replica %s writes with the %s key %d, which this keyset does not have.",
					r.Replica, kind.name, kind.theirs[0])
			}
			if detail != "" {
				return fault.New(fault.Conflict, detail, nil)
			}
		}
	}
	return nil
}

// keysOf and keyArray turn ids of keys from and to what Postgres has a type for.
func keysOf(ids []int64) []uint32 {
	var keys []uint32
	for _, id := range ids {
		keys = append(keys, uint32(id)) //nolint:gosec // G115: it was one
	}
	return keys
}

func keyArray(keys []uint32) []int64 {
	ids := make([]int64, 0, len(keys))
	for _, key := range keys {
		ids = append(ids, int64(key))
	}
	return ids
}
