package tenants

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
)

// suspectMargin is how long before the end of its access token a suspect connection
// presents its refresh token again for the first time: earlier, a replay could only end an
// access token that still works.
const suspectMargin = 60 * time.Second

// forcedPause is how far apart refreshes are that the API's refusals force, on all
// replicas together. After one that succeeded the age of the new pair sees to that.
const forcedPause = 60 * time.Second

// claimScope bounds what a claim may wait: a lock that is not free within a
// second belongs to somebody who is about to say that there is nothing to do. An intent
// must not be forgotten by a crash of the server.
func (t *TokenStorage) claimScope() postgres.Scope {
	return postgres.Scope{Tenant: t.tenant.UUID, Durable: true, Lock: time.Second, Statement: 2 * time.Second}
}

// Claim implements prisma.RefreshLease: it takes the refresh lease if the refresh
// of the refused pair is still due. It locks the row, looks again, and records
// the intent before anything is sent; the commit proves that the database is
// writable. The lease lasts by the database's clock and holds no connection.
//
// An intent that outlived its lease makes the connection suspect: nobody knows
// whether its refresh token was spent. It is presented again, but late, or at once while
// the authorization server's leeway lasts and the intent's owner is dead; and never while
// there may be somebody who has its successor and could not save it. If the late retry's
// outcome is unknown too, further ones follow, with pauses, once the access token has
// ended: a spent token's grant is lost anyway, and one that was not spent heals. What ends
// that is an answer, or the refresh token's age.
//
// A commit that nobody knows the outcome of gives the claim with its error.
//
// A database that may be a copy, or may have lost writes, gives an ErrFenced.
func (t *TokenStorage) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	var claim prisma.Claim
	var dead error
	err := t.store.inTx(ctx, t.claimScope(), func(tx pgx.Tx) error {
		row, err := t.read(ctx, tx, "FOR UPDATE")
		if err != nil {
			return err
		}
		claim = prisma.Claim{Current: row.tokens}
		if dead = row.alive(); dead != nil {
			return nil //nolint:nilerr // told after the transaction, which changed nothing
		}
		if row.tokens.Generation != refused.Generation {
			return nil
		}
		now := row.tokens.ReadAt
		refusal := !refused.ExpiresAt.After(refused.ReadAt) // of the API
		over := refusal || !row.tokens.ExpiresAt.Add(-suspectMargin).After(now)
		claim.Forced = refusal && row.tokens.ExpiresAt.After(now)
		running := row.leaseUntil != nil && row.leaseUntil.After(now)
		if running && t.store.leeway == 0 {
			claim.Held = true
			return nil
		}
		seen, err := t.store.admit(ctx, tx)
		if err != nil {
			return err
		}
		hold := t.store.fence.holding(seen)
		if !hold {
			if claim.SendWithin, err = t.inLeeway(ctx, tx, row, now); err != nil {
				return err
			}
		}
		if running && claim.SendWithin == 0 {
			claim.Held = true
			return nil
		}
		if row.tokens.Refresh == "" {
			return t.endOfGrant(ctx, tx, row, over, &dead)
		}
		late := row.intentGeneration != nil
		switch {
		case late && hold:
			return t.suspect(ctx, tx)
		case late && now.Sub(row.tokens.IssuedAt) >= prisma.RefreshTokenLife:
			dead = fault.New(fault.ReconnectRequired, "The user has to connect again.", nil)
			return t.needReconnect(ctx, tx, row.tokens.Generation, ReasonUnknown)
		case late && claim.SendWithin == 0 && row.tooEarly(over) > 0:
			claim.TooEarly = row.tooEarly(over)
			return t.suspect(ctx, tx)
		case row.notBefore != nil && row.notBefore.After(now):
			claim.TooEarly = row.notBefore.Sub(now)
			return nil
		case late && !refused.LateToo:
			claim.Late = true
			return t.suspect(ctx, tx)
		}
		claim.Due, claim.Late, claim.Taken = true, late, now.Truncate(time.Microsecond)
		return t.writeIntent(ctx, tx, row, claim)
	})
	switch {
	case err == nil && dead == nil:
		return claim, nil
	case err == nil:
		err = dead
	case claim.Due && postgres.CommitUnknown(err):
		return claim, err // it may be in the row, for its caller to settle
	}
	return prisma.Claim{}, err
}

// endOfGrant ends a grant that has no refresh token once its access token is
// over.
func (t *TokenStorage) endOfGrant(ctx context.Context, tx pgx.Tx, row tokenRow, over bool, dead *error) error {
	if !over {
		return nil
	}
	*dead = fault.New(fault.ReconnectRequired, "The user has to connect again.", nil)
	return t.needReconnect(ctx, tx, row.tokens.Generation, ReasonNoRefreshToken)
}

// suspect leaves the ended lease in the row: whoever held it may still come and say
// that it sent nothing.
func (t *TokenStorage) suspect(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		UPDATE connections SET status = 'suspect', status_since = app.now()
		WHERE tenant_id = $1 AND id = $2 AND status = 'active'`, t.tenant, t.id)
	return err
}

// retries is how often the stored pair's refresh token was presented late.
func (row tokenRow) retries() int {
	n := 0
	if row.lateRetriesOf != nil && *row.lateRetriesOf == row.tokens.Generation {
		n = row.lateRetries
	}
	if row.lateRetry != nil && *row.lateRetry == row.tokens.Generation {
		n++ // by a replica of a version that knew of one late retry only
	}
	return n
}

// tooEarly is how long a late retry has to wait for the access token. over says that
// there is no life left in it that the first one could end. The pause since the last one
// is in the row for itself.
func (row tokenRow) tooEarly(over bool) time.Duration {
	left := row.tokens.ExpiresAt.Sub(row.tokens.ReadAt)
	switch {
	case row.retries() > 0:
		return max(left, 0)
	case over:
		return 0
	}
	return left - suspectMargin
}

// writeIntent writes the intent and its row of the refresh ledger in one round trip. That
// of a late retry also puts off the next one, should nobody say how this one ended.
func (t *TokenStorage) writeIntent(ctx context.Context, tx pgx.Tx, row tokenRow, claim prisma.Claim) error {
	retries := 0
	var notBefore *time.Time
	if claim.Late {
		retries = row.retries() + 1
		pause := claim.Taken.Add(t.store.latePauses.After(t.id.String(), retries))
		notBefore = &pause
	}
	var batch pgx.Batch
	batch.Queue(`
		UPDATE connections SET lease_id = $3, lease_until = $4::timestamptz + $5, intent_generation = generation,
			intent_at = $4, lease_owner = $7, refresh_not_before = $8,
			late_retries = $9, late_retries_of = CASE WHEN $6 THEN generation END, late_retry_generation = NULL,
			status = CASE WHEN $6 THEN 'suspect' ELSE status END,
			status_since = CASE WHEN $6 AND status = 'active' THEN app.now() ELSE status_since END
		WHERE tenant_id = $1 AND id = $2`,
		t.tenant, t.id, newID(), claim.Taken, t.store.leaseFor, claim.Late, t.store.replica, notBefore, retries)
	if err := t.beginInLedger(ctx, tx, row.ledger, claim, &batch); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("write refresh intent: %w", err)
	}
	return nil
}

// Save implements prisma.RefreshLease. It is one statement on the reserved pool,
// fenced by the generation and by nothing else: an owner that lost its lease may
// hold the only live refresh token. A save that comes after the intent was taken
// over by somebody else stores the pair but leaves the connection suspect; one that
// was given up for unknown is suspect again, since here is its outcome.
func (t *TokenStorage) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	next := claim.Current.Generation + 1
	access, refresh, err := t.store.sealPair(t.tenant, t.id, next, fresh)
	if err != nil {
		return err
	}
	scope := postgres.Scope{Tenant: t.tenant.UUID, Durable: true, Lock: 5 * time.Second, Statement: 10 * time.Second}
	recovered := false
	err = postgres.InTx(ctx, t.store.tokenPool, scope, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			UPDATE connections c SET generation = $4, access_token_sealed = $5, refresh_token_sealed = $6,
				access_issued_at = $7, access_expires_at = $8,
				status = CASE WHEN c.status = 'suspect' AND intent_at IS NOT DISTINCT FROM $9 THEN 'active'
				              WHEN given_up THEN 'suspect' ELSE c.status END,
				status_reason = CASE WHEN given_up THEN NULL ELSE status_reason END,
				status_since = CASE WHEN c.status = 'suspect' AND intent_at IS NOT DISTINCT FROM $9 OR given_up THEN app.now()
				                    ELSE status_since END,
				lease_id = NULL, lease_until = NULL, intent_generation = NULL, intent_at = NULL,
				late_retries = 0, late_retries_of = NULL, late_retry_generation = NULL, refresh_not_before = NULL,
				updated_at = app.now()
			FROM (SELECT status = 'needs_reconnect' AND status_reason = $10 AS given_up FROM connections
			      WHERE tenant_id = $1 AND id = $2 FOR UPDATE) AS before
			WHERE c.tenant_id = $1 AND c.id = $2 AND c.generation = $3 AND c.status <> 'disconnected'
			RETURNING coalesce(given_up, false)`,
			t.tenant, t.id, claim.Current.Generation, next, access, refresh, fresh.IssuedAt, fresh.ExpiresAt, claim.Taken,
			ReasonUnknown).Scan(&recovered)
		if !errors.Is(err, pgx.ErrNoRows) {
			if err != nil {
				return fmt.Errorf("save tokens: %w", err)
			}
			return nil
		}
		// Either an earlier attempt was committed without our hearing of it, or
		// somebody else moved the row on.
		row, err := t.read(ctx, tx, "")
		if err == nil && row.tokens.Generation == next && row.tokens.Access == fresh.Access && row.tokens.Refresh == fresh.Refresh {
			recovered = true // perhaps, by that earlier attempt
			return nil
		}
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
		return prisma.ErrSuperseded
	})
	if t.store.fence.notice(err); err == nil {
		t.store.fence.saved(written{tenant: t.tenant.UUID, connection: t.id.UUID, generation: next})
	}
	t.noteSave(ctx, claim, fresh.Refresh, recovered, err)
	return err
}

// Settle implements prisma.RefreshLease. The lease is told from a later one by
// the time it was taken.
func (t *TokenStorage) Settle(ctx context.Context, claim prisma.Claim, outcome prisma.Outcome) error {
	return t.store.inTx(ctx, t.claimScope(), func(tx pgx.Tx) error {
		if err := t.endInLedger(ctx, tx, claim, outcomeEntry(outcome)); err != nil {
			return err
		}
		switch outcome {
		case prisma.InvalidGrant:
			return t.needReconnect(ctx, tx, claim.Current.Generation, ReasonRefused)
		case prisma.NotSent, prisma.Misconfigured:
			return t.release(ctx, tx, claim, outcome)
		case prisma.Unknown:
		}
		return t.leaveOpen(ctx, tx, claim)
	})
}

// release gives back a lease whose refresh token was not spent. The back-off is
// 1 to 5 s, on every replica, and the refresher's own grows to 30 s, so that an
// endpoint in trouble is not met by every caller. After a refresh that a refused access
// token had forced it is a minute, or a 401 would be a loop. A late retry gets its chance
// again, and the intent before it stays open. A release that is repeated finds no
// lease and changes nothing: it could not tell any more that there was an intent
// before. One that is to be made again at once leaves no trace but that. The row keeps since when it has been going wrong, for the diagnosis, and no owner:
// with a leeway the intent's time would be taken for that of the first presentation.
func (t *TokenStorage) release(ctx context.Context, tx pgx.Tx, claim prisma.Claim, outcome prisma.Outcome) error {
	backOff := time.Second + rand.N(4*time.Second) //nolint:gosec // jitter, not a secret
	switch {
	case claim.Again:
		backOff = 0
	case claim.Forced:
		backOff = forcedPause
	}
	_, err := tx.Exec(ctx, `
		UPDATE connections SET lease_id = NULL, lease_until = NULL,
			lease_owner = NULL, intent_generation = CASE WHEN $7 THEN intent_generation END, intent_at = CASE WHEN $7 THEN intent_at END,
			late_retries = greatest(late_retries - CASE WHEN $7 THEN 1 ELSE 0 END, 0), refresh_not_before = app.now() + $5,
			failing_since = CASE WHEN $8 OR failing_generation = generation THEN failing_since ELSE app.now() END,
			failing_generation = CASE WHEN $8 THEN failing_generation ELSE generation END,
			failing_outcome = CASE WHEN $8 THEN failing_outcome ELSE $6 END
		WHERE tenant_id = $1 AND id = $2 AND generation = $3 AND intent_at = $4 AND lease_id IS NOT NULL`,
		t.tenant, t.id, claim.Current.Generation, claim.Taken, backOff, outcome.String(), claim.Late, claim.Again)
	if err != nil {
		return fmt.Errorf("release refresh lease: %w", err)
	}
	return nil
}

// leaveOpen ends the lease and keeps the intent: the outcome is unknown. The pause after
// a late retry begins now and not with its claim.
func (t *TokenStorage) leaveOpen(ctx context.Context, tx pgx.Tx, claim prisma.Claim) error {
	_, err := tx.Exec(ctx, `
		UPDATE connections SET lease_id = NULL, lease_until = NULL, status = 'suspect',
			status_since = CASE WHEN status = 'active' THEN app.now() ELSE status_since END,
			refresh_not_before = refresh_not_before + CASE WHEN lease_id IS NULL THEN interval '0' ELSE app.now() - intent_at END
		WHERE tenant_id = $1 AND id = $2 AND generation = $3 AND intent_at = $4 AND status IN ('active', 'suspect')`,
		t.tenant, t.id, claim.Current.Generation, claim.Taken)
	if err != nil {
		return fmt.Errorf("leave refresh open: %w", err)
	}
	return nil // nor is it wrong if somebody moved the row on
}
