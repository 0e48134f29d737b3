package tenants

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
)

// Return is what came back from Prisma in the browser.
type Return struct {
	State    string
	Code     string
	Verifier string // from the browser's cookie
}

// ReturnSession consumes a started session: exactly one call with the right
// state gets through. With CompletionCode it parks the sealed code and verifier
// and returns the completion code, which is kept as a hash; with
// CompletionAutomatic it moves straight to completing and returns "".
//
// fault.NotFound: not started, already consumed, too late, or another state. With
// CompletionAutomatic also ErrFenced; the session stays started.
func (s *Store) ReturnSession(ctx context.Context, by Actor, x Session, back Return) (string, error) {
	hash := sha256.Sum256([]byte(back.State))
	completionCode, status := RandomToken(), SessionReturned
	codeSealed, err := s.keyset.Seal([]byte(back.Code), sessionPlace(x, "code"))
	if err != nil {
		return "", err
	}
	verifierSealed, err := s.keyset.Seal([]byte(back.Verifier), sessionPlace(x, "verifier"))
	if err != nil {
		return "", err
	}
	completionHash, err := s.keyset.Fingerprint(completionPurpose, completionCode)
	if err != nil {
		return "", err
	}
	if x.Completion == CompletionAutomatic {
		// The code is spent in this very request, so it never reaches the row.
		completionCode, status, codeSealed, verifierSealed, completionHash = "", SessionCompleting, nil, nil, nil
	}
	err = s.inTenant(ctx, x.Tenant, func(tx pgx.Tx) error {
		if status == SessionCompleting { // the code is sent next
			if _, err := s.admit(ctx, tx); err != nil {
				return err
			}
		}
		tag, err := tx.Exec(ctx, `
			UPDATE connect_sessions SET status = $4, returned_at = app.now(),
				code_sealed = $5, verifier_sealed = $6, completion_code_hash = $7,
				completing_at = CASE WHEN $4 = 'completing' THEN app.now() END
			WHERE tenant_id = $1 AND id = $2 AND status = 'started' AND state_hash = $3 AND expires_at > app.now()`,
			x.Tenant, x.ID, hash[:], status, codeSealed, verifierSealed, completionHash)
		if err != nil {
			return fmt.Errorf("return session: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errNoSession()
		}
		return s.record(ctx, tx, x.Tenant, by, change{action: auditSessionReturned, target: x.ID.String()})
	})
	return completionCode, err
}

// Ending is how a session ends without a connection.
type Ending struct {
	Status  SessionStatus // SessionDenied, SessionExpired or SessionFailed
	Failure string        // why, for SessionFailed: a short snake_case word
}

// EndSession ends a session that stands in one of the from statuses and tells
// the tenant. It reports whether it did: false means that somebody else moved
// the session first.
func (s *Store) EndSession(ctx context.Context, by Actor, x Session, end Ending, from ...SessionStatus) (bool, error) {
	ended := false
	err := s.inTenant(ctx, x.Tenant, func(tx pgx.Tx) error {
		var err error
		ended, err = s.endSession(ctx, tx, by, x, end, from)
		return err
	})
	return ended, err
}

func (s *Store) endSession(ctx context.Context, tx pgx.Tx, by Actor, x Session, end Ending, from []SessionStatus) (bool, error) {
	tag, err := tx.Exec(ctx, `
		UPDATE connect_sessions SET status = $3, failure = NULLIF($4, ''), finished_at = app.now(),
			code_sealed = NULL, verifier_sealed = NULL
		WHERE tenant_id = $1 AND id = $2 AND status = ANY ($5)`, x.Tenant, x.ID, end.Status, end.Failure, from)
	if err != nil {
		return false, fmt.Errorf("end session: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	event := map[SessionStatus]string{
		SessionDenied: EventSessionDenied, SessionExpired: EventSessionExpired, SessionFailed: EventSessionFailed,
	}[end.Status]
	data := map[string]any{"sessionId": x.ID.String(), "userId": x.UserID}
	if end.Failure != "" {
		data["reason"] = end.Failure
	}
	return true, s.record(ctx, tx, x.Tenant, by, change{event: event, target: x.ID.String(), data: data})
}

// Completing is the right to make the one token request of a session, or the
// connection that an earlier, identical completion made.
type Completing struct {
	Session     Session
	Code        string // "" with Done
	Verifier    string
	ClientID    string
	RedirectURI string
	Done        bool
	Connection  Connection // with Done
}

// ClaimCompletion checks a completion and, the first time, takes the parked code
// out of the row, so that no second request can ever be made with it.
//
// Errors: fault.NotFound, no such session or another code; fault.Conflict, the
// user has not come back yet, or it is another user; fault.Expired, too late;
// fault.CompletionInProgress; fault.RestartConnect, the session ended without a
// connection; ErrFenced, and the code stays where it is.
func (s *Store) ClaimCompletion(ctx context.Context, by Actor, tenant TenantID, id SessionID, code, userID string,
) (Completing, error) {
	hashes, err := s.keyset.Fingerprints(completionPurpose, code)
	if err != nil {
		return Completing{}, err
	}
	var claim Completing
	var refusal error
	err = s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		x, err := sessionRow(ctx, tx, tenant, id, "FOR UPDATE")
		if err != nil {
			return err
		}
		if refusal = x.refuseCompletion(hashes, userID); refusal != nil {
			return s.noteLateCompletion(ctx, tx, x)
		}
		if x.Status == SessionConnected {
			claim.Done = true
			claim.Connection, err = connectionRow(ctx, tx, tenant, x.Result, "")
			return err
		}
		claim, err = s.takeCode(ctx, tx, by, x)
		return err
	})
	if postgres.CommitUnknown(err) && claim.Code != "" {
		return s.confirmClaim(ctx, claim, err)
	}
	if err == nil {
		err = refusal
	}
	return claim, err
}

// confirmClaim finds out whether a claim whose COMMIT nobody answered happened: the
// code is in no other place any more.
func (s *Store) confirmClaim(ctx context.Context, claim Completing, cause error) (Completing, error) {
	row, err := s.Session(context.WithoutCancel(ctx), claim.Session.Tenant, claim.Session.ID)
	if err != nil || row.Status != SessionCompleting || !row.completingAt.Equal(claim.Session.now) {
		return Completing{}, cause // it did not happen, or the database is still away
	}
	return claim, nil
}

// refuseCompletion returns why this completion can't go on, nil if it can: the
// session is returned and in time, or connected and the same call again.
func (x Session) refuseCompletion(hashes [][]byte, userID string) error {
	switch {
	case x.Completion == CompletionAutomatic:
		return fault.New(fault.Conflict, "This session completes by itself; its status tells when.", nil)
	case x.Status == SessionCreated || x.Status == SessionStarted:
		return fault.New(fault.Conflict, "The user has not come back from Prisma yet.", nil)
	case x.Status == SessionExpired && x.completionHash == nil:
		return fault.New(fault.Expired, "The connect session has expired; begin a new one.", nil)
	case x.completionHash == nil:
		return fault.New(fault.RestartConnect, "The session ended without a connection; begin a new one.", nil)
	}
	same := 0
	for _, hash := range hashes {
		same |= subtle.ConstantTimeCompare(hash, x.completionHash)
	}
	if same != 1 {
		return errNoSession()
	}
	if subtle.ConstantTimeCompare([]byte(userID), []byte(x.UserID)) != 1 {
		return fault.New(fault.Conflict, "The session was begun for another user; nothing was connected.", nil).
			WithField("/userId", "Send the id of the user who is logged in and for whom the session was made.")
	}
	late := fault.New(fault.Expired, "The completion code is too old; begin a new connect session.", nil)
	switch x.Status {
	case SessionReturned:
		return nil
	case SessionCompleting:
		if x.now.After(x.completingAt.Add(completingFor)) {
			return fault.New(fault.RestartConnect, "The outcome of the connection is unknown; begin a new session.", nil)
		}
		return fault.New(fault.CompletionInProgress, "The same completion is running.", nil).WithRetryAfter(time.Second)
	case SessionConnected:
		if x.now.After(x.finishedAt.Add(CompletionReplay)) {
			return late
		}
		return nil
	case SessionExpired:
		return late
	case SessionCreated, SessionStarted, SessionDenied, SessionFailed:
	}
	return fault.New(fault.RestartConnect, "The session ended without a connection; begin a new one.", nil)
}

// noteLateCompletion writes down that a parked code got too old.
func (s *Store) noteLateCompletion(ctx context.Context, tx pgx.Tx, x Session) error {
	if x.Status != SessionExpired || x.codeSealed == nil {
		return nil
	}
	_, err := s.endSession(ctx, tx, System(), x, Ending{Status: SessionExpired}, []SessionStatus{SessionReturned})
	return err
}

func (s *Store) takeCode(ctx context.Context, tx pgx.Tx, by Actor, x Session) (Completing, error) {
	if _, err := s.admit(ctx, tx); err != nil {
		return Completing{}, err
	}
	code, err := s.keyset.Open(x.codeSealed, sessionPlace(x, "code"))
	if err != nil {
		return Completing{}, err
	}
	verifier, err := s.keyset.Open(x.verifierSealed, sessionPlace(x, "verifier"))
	if err != nil {
		return Completing{}, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE connect_sessions SET status = 'completing', completing_at = app.now(),
			code_sealed = NULL, verifier_sealed = NULL
		WHERE tenant_id = $1 AND id = $2 AND status = 'returned'`, x.Tenant, x.ID)
	if err != nil {
		return Completing{}, fmt.Errorf("claim completion: %w", err)
	}
	err = s.record(ctx, tx, x.Tenant, by, change{action: auditSessionCompleting, target: x.ID.String()})
	return Completing{
		Session: x, Code: string(code), Verifier: string(verifier), ClientID: x.clientID, RedirectURI: x.redirectURI,
	}, err
}

// FinishSession stores a completing session's grant: it updates the pinned
// connection, or the same user's connection to the same workspace, or makes a
// new one. It may be repeated after an error: a session that is connected
// already gives its connection.
//
// fault.WorkspaceChanged: the session is pinned to another workspace; the grant
// is not stored and the session has failed. fault.RestartConnect: the session is
// no longer completing.
func (s *Store) FinishSession(ctx context.Context, by Actor, x Session, clientID string, grant prisma.Tokens,
) (Connection, error) {
	connection, err := s.finishSession(ctx, by, x, clientID, grant)
	if postgres.IsUniqueViolation(err, "connections_one_per_workspace") {
		// Another session of the same user made the connection between our look and
		// our insert. Now that it is there, it is the one to update.
		return s.finishSession(ctx, by, x, clientID, grant)
	}
	return connection, err
}

func (s *Store) finishSession(ctx context.Context, by Actor, x Session, clientID string, grant prisma.Tokens,
) (Connection, error) {
	var connection Connection
	var refusal error
	err := s.inTenant(ctx, x.Tenant, func(tx pgx.Tx) error {
		row, err := sessionRow(ctx, tx, x.Tenant, x.ID, "FOR UPDATE")
		if err != nil {
			return err
		}
		if row.Status == SessionConnected {
			connection, err = connectionRow(ctx, tx, x.Tenant, row.Result, "")
			return err
		}
		if row.Status != SessionCompleting {
			refusal = fault.New(fault.RestartConnect, "The session is no longer open; begin a new one.", nil)
			return nil
		}
		target, exists, err := findTarget(ctx, tx, row, grant.WorkspaceID)
		if err != nil {
			return err
		}
		if exists && target.WorkspaceID != grant.WorkspaceID {
			refusal = fault.New(fault.WorkspaceChanged, "The user chose another workspace; nothing was changed.", nil)
			_, err := s.endSession(ctx, tx, by, row, Ending{Status: SessionFailed, Failure: "workspace_changed"},
				[]SessionStatus{SessionCompleting})
			connection = target
			return err
		}
		connection, err = s.storeGrant(ctx, tx, by, row, target, exists, clientID, grant)
		return err
	})
	if err == nil {
		err = refusal
	}
	return connection, err
}
