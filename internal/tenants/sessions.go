package tenants

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/sealing"
)

// The times of a connect session.
const (
	// SessionLife is how long a user has from the link to the callback.
	SessionLife = 10 * time.Minute
	// MinSessionLife is the shortest life that a partner may ask for.
	MinSessionLife = time.Minute
	// CompletionLife is how long a completion code may be redeemed: shorter than
	// the life of Prisma's authorization code that waits behind it.
	CompletionLife = 45 * time.Second
	// CompletionReplay is how long the same completion gives the same answer.
	CompletionReplay = 10 * time.Minute
	// completingFor is after how long a completion counts as lost: its process died
	// between the claim of the code and the save of the tokens.
	completingFor = 3 * time.Minute
)

// SessionStatus is where a connect session stands.
type SessionStatus string

// The statuses; the package comment draws their order.
const (
	SessionCreated    SessionStatus = "created"
	SessionStarted    SessionStatus = "started"
	SessionReturned   SessionStatus = "returned"
	SessionCompleting SessionStatus = "completing"
	SessionConnected  SessionStatus = "connected"
	SessionDenied     SessionStatus = "denied"
	SessionExpired    SessionStatus = "expired"
	SessionFailed     SessionStatus = "failed"
)

// Session is one attempt of one user to connect.
type Session struct {
	ID           SessionID
	Tenant       TenantID
	UserID       string
	UserLabel    string // how the page names the user
	Completion   Completion
	ReturnURL    string       // "" with automatic completion, when the partner gave none
	RestartURL   string       // "": the tenant's, which may be "" too
	ConnectionID ConnectionID // reconnect: the pinned connection; zero otherwise
	Status       SessionStatus
	Failure      string // why it failed; "" otherwise
	CreatedAt    time.Time
	ExpiresAt    time.Time
	Result       ConnectionID // zero unless connected

	browserHash    []byte
	stateHash      []byte
	clientID       string
	redirectURI    string
	returnedAt     time.Time
	completingAt   time.Time
	finishedAt     time.Time
	codeSealed     []byte
	verifierSealed []byte
	completionHash []byte
	now            time.Time // the database's clock when the row was read
}

// NewSession is what a partner says of a session.
type NewSession struct {
	UserID       string
	UserLabel    string // "": the user id
	ReturnURL    string // one of the tenant's registered URLs; may be "" with automatic completion
	RestartURL   string
	ConnectionID ConnectionID  // reconnect this connection; zero: a new one
	Completion   Completion    // "": the tenant's
	Life         time.Duration // 0: SessionLife
}

// CreateSession stores a session and returns it with the secret of its one-time
// link, of which only a hash is kept.
//
// fault.InvalidValue names the field that is refused; fault.NotFound means that
// the connection to reconnect is absent.
func (s *Store) CreateSession(ctx context.Context, by Actor, tenant TenantID, in NewSession) (Session, string, error) {
	link := RandomToken()
	hash, err := s.keyset.Fingerprint(linkPurpose, link)
	if err != nil {
		return Session{}, "", err
	}
	id := SessionID{newID()}
	var session Session
	err = s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		t, err := tenantRow(ctx, tx, tenant, "")
		if err != nil {
			return err
		}
		if err := in.settle(ctx, tx, t); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO connect_sessions (tenant_id, id, link_hash, user_id, user_label, completion,
				return_url, restart_url, connection_id, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, NULLIF($7, ''), NULLIF($8, ''), $9, app.now() + $10)`,
			tenant, id, hash, in.UserID, in.UserLabel, in.Completion, in.ReturnURL, in.RestartURL,
			nullID(in.ConnectionID.UUID), in.Life)
		if err != nil {
			return fmt.Errorf("insert session: %w", err)
		}
		if session, err = sessionRow(ctx, tx, tenant, id, ""); err != nil {
			return err
		}
		data := map[string]any{"userId": in.UserID}
		if in.ConnectionID != (ConnectionID{}) {
			data["connectionId"] = in.ConnectionID.String()
		}
		return s.record(ctx, tx, tenant, by, change{action: auditSessionCreated, target: id.String(), data: data})
	})
	return session, link, err
}

// settle fills the defaults in and refuses what doesn't fit the tenant.
func (in *NewSession) settle(ctx context.Context, tx pgx.Tx, t Tenant) error {
	if in.UserLabel == "" {
		in.UserLabel = in.UserID
	}
	if in.Completion == "" {
		in.Completion = t.Completion
	}
	if in.RestartURL == "" {
		in.RestartURL = t.RestartURL
	}
	if in.Life == 0 {
		in.Life = SessionLife
	}
	bad := fault.New(fault.InvalidValue, "The connect session has values that can't be used.", nil)
	if !IsLabel(in.UserID, 255) {
		bad = bad.WithField("/userId", "Use 1 to 255 printable characters.")
	}
	if !IsLabel(in.UserLabel, 255) {
		bad = bad.WithField("/userLabel", "Use 1 to 255 printable characters, without control or direction-changing ones.")
	}
	if in.Completion != CompletionCode && in.Completion != CompletionAutomatic {
		bad = bad.WithField("/completion", `Use "code" or "automatic".`)
	}
	if in.Life < MinSessionLife || in.Life > SessionLife {
		bad = bad.WithField("/expiresInSeconds", "Use 60 to 600 seconds.")
	}
	if in.ReturnURL == "" && in.Completion == CompletionCode {
		bad = bad.WithField("/returnUrl", "Name one of the return URLs registered for this tenant.")
	}
	for pointer, u := range map[string]string{"/returnUrl": in.ReturnURL, "/restartUrl": in.RestartURL} {
		if u == "" || pointer == "/restartUrl" && u == t.RestartURL {
			continue
		}
		// Byte for byte: any cleverness in comparing URLs is an open redirect.
		if !contains(t.ReturnURLs, u) {
			bad = bad.WithField(pointer, "Use a URL that is registered for your tenant; GET /v1/tenant lists them.")
		}
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	if in.ConnectionID.UUID == uuid.Nil {
		return nil
	}
	connection, err := connectionRow(ctx, tx, t.ID, in.ConnectionID, "")
	if err != nil {
		return err
	}
	if connection.UserID != in.UserID {
		return fault.New(fault.InvalidValue, "The connection belongs to another user.", nil).
			WithField("/userId", "Name the user whose connection it is.")
	}
	return nil
}

func contains(list []string, one string) bool {
	found := 0
	for _, each := range list {
		found |= subtle.ConstantTimeCompare([]byte(each), []byte(one))
	}
	return found == 1
}

const (
	linkPurpose       = "connect link"
	completionPurpose = "completion code"
)

// RandomToken returns 256 random bits as 43 characters of base64url.
func RandomToken() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the program instead
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// Session returns one session as it stands now: one whose time is over is
// expired even before the sweep has written that down. fault.NotFound otherwise.
func (s *Store) Session(ctx context.Context, tenant TenantID, id SessionID) (Session, error) {
	var session Session
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		var err error
		session, err = sessionRow(ctx, tx, tenant, id, "")
		return err
	})
	return session, err
}

// SessionByLink returns the session of a one-time link; fault.NotFound when there
// is none. It may be spent: see Session.Open.
func (s *Store) SessionByLink(ctx context.Context, link string) (Session, error) {
	hashes, err := s.keyset.Fingerprints(linkPurpose, link)
	if err != nil {
		return Session{}, err
	}
	return s.findSession(ctx, `SELECT tenant_id FROM app.find_connect_link($1)`,
		`(SELECT session_id FROM app.find_connect_link($1))`, hashes)
}

// SessionByID finds a session whose tenant is not known yet, as in the OAuth
// callback. The caller must prove its right to it by the state.
func (s *Store) SessionByID(ctx context.Context, id SessionID) (Session, error) {
	return s.findSession(ctx, `SELECT tenant_id FROM app.find_connect_session($1)`, `$1`, id)
}

// findSession reads a session whose tenant is yet to be found: find is what finds it, and id
// the session's, both by the same argument.
func (s *Store) findSession(ctx context.Context, find, id string, by any) (Session, error) {
	var session Session
	err := s.readFound(ctx, find, []any{by}, func(rows pgx.Rows) error {
		var err error
		session, err = pgx.CollectExactlyOneRow(rows, scanSession)
		return err
	}, selectSession+` WHERE tenant_id = app.tenant() AND id = `+id, by)
	if errors.Is(err, pgx.ErrNoRows) {
		return Session{}, errNoSession()
	}
	if err != nil {
		return Session{}, fmt.Errorf("find session: %w", err)
	}
	return session, nil
}

func errNoSession() error { return fault.New(fault.NotFound, "There is no such connect session.", nil) }

// Open reports whether the user can still go on: not finished and not expired.
func (x Session) Open() bool {
	return x.Status == SessionCreated || x.Status == SessionStarted
}

// MatchesState reports whether state is the one of the latest click.
func (x Session) MatchesState(state string) bool { return matches(x.stateHash, state) }

// MatchesBrowser reports whether secret is that of the browser that clicked.
func (x Session) MatchesBrowser(secret string) bool { return matches(x.browserHash, secret) }

// matches compares in constant time; nothing matches an empty secret.
func matches(stored []byte, secret string) bool {
	hash := sha256.Sum256([]byte(secret))
	return secret != "" && len(stored) == len(hash) && subtle.ConstantTimeCompare(stored, hash[:]) == 1
}

// MatchesClient reports whether the latest click went to that client and
// redirect URI.
func (x Session) MatchesClient(clientID, redirectURI string) bool {
	return x.clientID != "" && x.redirectURI != "" &&
		subtle.ConstantTimeCompare([]byte(x.clientID), []byte(clientID)) == 1 &&
		subtle.ConstantTimeCompare([]byte(x.redirectURI), []byte(redirectURI)) == 1
}

// StartedWith returns the client and redirect URI of the latest click.
func (x Session) StartedWith() (clientID, redirectURI string) { return x.clientID, x.redirectURI }

// ReadAt is the database's clock when the session was read.
func (x Session) ReadAt() time.Time { return x.now }

// Start is what a click on the connect page fixes.
type Start struct {
	State       string // the new state
	Browser     string // a secret that only this browser has; "": the click can't be repeated
	ClientID    string
	RedirectURI string
}

// StartSession moves a session to started. Only the browser of the first click can
// repeat it; fault.NotFound otherwise.
func (s *Store) StartSession(ctx context.Context, by Actor, x Session, start Start) error {
	hash := sha256.Sum256([]byte(start.State))
	var browser []byte
	if start.Browser != "" {
		sum := sha256.Sum256([]byte(start.Browser))
		browser = sum[:]
	}
	return s.inTenant(ctx, x.Tenant, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE connect_sessions SET status = 'started', started_at = app.now(), state_hash = $3,
				oauth_client_id = $4, redirect_uri = $5, browser_hash = $6
			WHERE tenant_id = $1 AND id = $2 AND expires_at > app.now()
			  AND (status = 'created' OR status = 'started' AND browser_hash = $6)`,
			x.Tenant, x.ID, hash[:], start.ClientID, start.RedirectURI, browser)
		if err != nil {
			return fmt.Errorf("start session: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errNoSession()
		}
		return s.record(ctx, tx, x.Tenant, by, change{action: auditSessionStarted, target: x.ID.String()})
	})
}

// The 45 seconds are CompletionLife.
const selectSession = `
	SELECT tenant_id, id, user_id, user_label, completion, coalesce(return_url, ''), coalesce(restart_url, ''),
	       connection_id, CASE WHEN status IN ('created', 'started') AND expires_at <= app.now()
	                             OR status = 'returned' AND returned_at < app.now() - interval '45 seconds' THEN 'expired'
	                           ELSE status END,
	       coalesce(failure, ''), created_at, expires_at, result_connection_id, browser_hash, state_hash,
	       coalesce(oauth_client_id, ''), coalesce(redirect_uri, ''), returned_at, completing_at, finished_at,
	       code_sealed, verifier_sealed, completion_code_hash, app.now()
	FROM connect_sessions`

func scanSession(row pgx.CollectableRow) (Session, error) {
	var x Session
	var connection, result *uuid.UUID
	var returned, completing, finished *time.Time
	err := row.Scan(&x.Tenant, &x.ID, &x.UserID, &x.UserLabel, &x.Completion, &x.ReturnURL, &x.RestartURL,
		&connection, &x.Status, &x.Failure, &x.CreatedAt, &x.ExpiresAt, &result, &x.browserHash, &x.stateHash,
		&x.clientID, &x.redirectURI, &returned, &completing, &finished,
		&x.codeSealed, &x.verifierSealed, &x.completionHash, &x.now)
	if connection != nil {
		x.ConnectionID = ConnectionID{*connection}
	}
	if result != nil {
		x.Result = ConnectionID{*result}
	}
	x.returnedAt, x.completingAt, x.finishedAt = timeOr(returned), timeOr(completing), timeOr(finished)
	return x, err
}

func sessionRow(ctx context.Context, tx pgx.Tx, tenant TenantID, id SessionID, lock string) (Session, error) {
	rows, err := tx.Query(ctx, selectSession+` WHERE tenant_id = $1 AND id = $2 `+lock, tenant, id)
	if err != nil {
		return Session{}, fmt.Errorf("read session: %w", err)
	}
	x, err := pgx.CollectExactlyOneRow(rows, scanSession)
	if errors.Is(err, pgx.ErrNoRows) {
		return Session{}, errNoSession()
	}
	return x, err
}

func sessionPlace(x Session, column string) sealing.Place {
	return sealing.Place{Table: "connect_sessions", Column: column, Tenant: x.Tenant.String(), ID: x.ID.String()}
}
