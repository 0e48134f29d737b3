package prismasim

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// maxFormBytes bounds the form bodies of /token and /authorize.
const maxFormBytes = 64 << 10

// tokenError is an OAuth error answer (RFC 6749, 5.2).
type tokenError struct {
	status            int
	code, description string
}

func invalidRequest(description string) *tokenError {
	return &tokenError{http.StatusBadRequest, "invalid_request", description}
}

func invalidGrant(description string) *tokenError {
	return &tokenError{http.StatusBadRequest, "invalid_grant", description}
}

// issued is a token pair just made.
type issued struct {
	access, refresh, scope string
}

// postToken serves POST /token: authorization_code and refresh_token, form body
// only, client credentials in the body or as Basic.
func (s *Simulator) postToken(w http.ResponseWriter, r *http.Request) {
	faults := s.settings().Faults
	form, fault := readTokenForm(w, r)
	if fault != nil {
		s.answerTokenError(w, r, fault)
		return
	}
	presented := s.countToken(r.Context(), form)
	if chance(faults.TokenFailBefore) {
		s.answerTokenError(w, r, &tokenError{http.StatusServiceUnavailable, "temporarily_unavailable", "fault tokenFailBefore"})
		return
	}
	var pair issued
	caller, fault := s.authenticateClient(r, form)
	if fault == nil {
		switch form.Get("grant_type") {
		case "authorization_code":
			pair, fault = s.exchangeCode(r.Context(), caller, form)
		case "refresh_token":
			pair, fault = s.refresh(r.Context(), caller, form)
		default:
			fault = &tokenError{http.StatusBadRequest, "unsupported_grant_type", "grant_type must be authorization_code or refresh_token"}
		}
	}
	s.pause(r, faults.TokenLatency)
	switch {
	case chance(faults.TokenDropAfter):
		cut(w)
	case chance(faults.TokenFailAfter):
		s.answerTokenError(w, r, &tokenError{http.StatusInternalServerError, "server_error", "fault tokenFailAfter"})
	case fault != nil:
		s.answerTokenError(w, r, fault)
	default:
		s.answerTokens(w, r, pair, presented)
	}
}

// readTokenForm reads the form body and refuses what RFC 6749 forbids.
func readTokenForm(w http.ResponseWriter, r *http.Request) (url.Values, *tokenError) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("the body must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		return nil, invalidRequest("the form cannot be read")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return nil, invalidRequest(name + " must not be repeated")
		}
	}
	return r.PostForm, nil
}

// countToken enters the request in the ledger and returns the id of the refresh
// token it presents, "" when there is none or it is unknown.
func (s *Simulator) countToken(ctx context.Context, form url.Values) (presented string) {
	kind := form.Get("grant_type")
	if kind != "authorization_code" && kind != "refresh_token" {
		return ""
	}
	_ = s.write(ctx, func(st *state) error { // fn never fails
		s.storeTallies(st, func(t *tallies) {
			if kind == "refresh_token" {
				t.Refreshes++
				return
			}
			t.CodeExchanges++
		})
		if kind != "refresh_token" {
			return nil
		}
		id, ok := st.refreshTokenByHash[hashSecret(form.Get("refresh_token"))]
		if !ok {
			return nil
		}
		presented = id
		row := st.refreshTokens.rows[id]
		row.Received++
		st.refreshTokens.set(id, row)
		return nil
	})
	return presented
}

// authenticateClient finds the client and checks its secret, given either as
// HTTP Basic or in the form, not both. A public client gives its id alone.
func (s *Simulator) authenticateClient(r *http.Request, form url.Values) (client, *tokenError) {
	refused := &tokenError{http.StatusUnauthorized, "invalid_client", "the client is unknown or its secret is wrong"}
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if r.Header.Get("Authorization") != "" {
		user, password, ok := r.BasicAuth()
		if !ok {
			return client{}, refused
		}
		if secret != "" {
			return client{}, invalidRequest("the client must authenticate in one way only")
		}
		basicID, errID := url.QueryUnescape(user)
		basicSecret, errSecret := url.QueryUnescape(password)
		if errID != nil || errSecret != nil || id != "" && id != basicID {
			return client{}, refused
		}
		id, secret = basicID, basicSecret
	}
	var known client
	var found bool
	s.read(func(st *state) { known, found = st.clients.get(id) })
	if !found || known.Public != (secret == "") {
		return client{}, refused
	}
	if !known.Public && !known.takes(secret) {
		return client{}, refused
	}
	return known, nil
}

// takes reports whether secret is one of the client's.
func (c client) takes(secret string) bool {
	hash := []byte(hashSecret(secret))
	return slices.ContainsFunc(append([]string{c.SecretHash}, c.OtherSecretHashes...), func(known string) bool {
		return subtle.ConstantTimeCompare(hash, []byte(known)) == 1
	})
}

// exchangeCode turns a code into a new grant and its first tokens. The right
// client's presentation uses the code up, whatever else is wrong with it; a
// second one revokes what the first was given (RFC 6749, 4.1.2).
func (s *Simulator) exchangeCode(ctx context.Context, caller client, form url.Values) (issued, *tokenError) {
	hash := hashSecret(form.Get("code"))
	code, fault := s.useCode(ctx, caller, hash)
	if fault != nil {
		return issued{}, fault
	}
	if form.Get("redirect_uri") != code.RedirectURI {
		return issued{}, invalidGrant("redirect_uri is not the one of the authorization request")
	}
	if fault := checkVerifier(code.Challenge, form.Get("code_verifier")); fault != nil {
		return issued{}, fault
	}
	now := s.clock.now()
	made := grant{
		ID: newID(prefixGrant), ClientID: code.ClientID, UserID: code.UserID, WorkspaceID: code.WorkspaceID,
		Scope: code.Scope, CreatedAt: now,
	}
	access, err := s.newAccessToken(made, made.Scope, now)
	if err != nil {
		return issued{}, s.tokenFailure(ctx, err)
	}
	pair := issued{access: access, scope: made.Scope}
	_ = s.write(ctx, func(st *state) error { // fn never fails
		made.Seq = st.nextSeq()
		st.grants.set(made.ID, made)
		s.ensureIntegration(st, made, now)
		pair.refresh = s.storePair(st, made, access, now)
		code := st.codes.rows[hash]
		code.GrantID = made.ID
		st.codes.set(hash, code)
		if code.Replayed { // while this one was at work
			s.revoke(st, made.ID, "code replayed")
			fault = invalidGrant("the code was presented twice")
		}
		return nil
	})
	return pair, fault
}

// useCode marks the code used and returns it, or says why it cannot be.
func (s *Simulator) useCode(ctx context.Context, caller client, hash string) (code authCode, fault *tokenError) {
	_ = s.write(ctx, func(st *state) error { // fn never fails
		found, ok := st.codes.get(hash)
		if !ok || found.ClientID != caller.ID {
			fault = invalidGrant("the code is unknown or another client's")
			return nil
		}
		if found.Used {
			s.storeTallies(st, func(t *tallies) { t.Replays++ })
			found.Replayed = true
			st.codes.set(hash, found)
			s.revoke(st, found.GrantID, "code replayed")
			fault = invalidGrant("the code was used before: what it gave is revoked")
			return nil
		}
		found.Used = true
		st.codes.set(hash, found)
		current, _ := st.settings.get(only)
		if s.clock.now().Sub(found.IssuedAt) > time.Duration(current.Faults.CodeLifetime) {
			fault = invalidGrant("the code has expired")
		}
		code = found
		return nil
	})
	return code, fault
}

// checkVerifier proves PKCE: once begun it must be completed, and a verifier
// without a challenge is a downgrade attack (RFC 9700, 4.8.2).
func checkVerifier(challenge, verifier string) *tokenError {
	if challenge == "" {
		if verifier != "" {
			return invalidGrant("code_verifier was sent, but the authorization request had no code_challenge")
		}
		return nil
	}
	if len(verifier) < 43 || len(verifier) > 128 || !isMadeOf(verifier, "-._~") {
		return invalidGrant("code_verifier is missing or malformed")
	}
	sum := sha256.Sum256([]byte(verifier))
	if subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) != 1 {
		return invalidGrant("code_verifier does not fit the code_challenge")
	}
	return nil
}

// refresh exchanges a refresh token for a new pair. See Faults.Leeway for the
// two readings of a second presentation.
func (s *Simulator) refresh(ctx context.Context, caller client, form url.Values) (issued, *tokenError) {
	if form.Get("refresh_token") == "" {
		return issued{}, invalidRequest("refresh_token is missing")
	}
	hash := hashSecret(form.Get("refresh_token"))
	var family grant
	s.read(func(st *state) {
		if id, ok := st.refreshTokenByHash[hash]; ok {
			family = st.grants.rows[st.refreshTokens.rows[id].GrantID]
		}
	})
	if family.ID == "" || family.ClientID != caller.ID {
		return issued{}, invalidGrant("the refresh token is unknown or another client's")
	}
	scope, fault := narrowScope(family.Scope, form.Get("scope"))
	if fault != nil {
		return issued{}, fault
	}
	// Signing takes a millisecond: it is done before the lock, in vain if the token
	// turns out to be dead.
	now := s.clock.now()
	access, err := s.newAccessToken(family, scope, now)
	if err != nil {
		return issued{}, s.tokenFailure(ctx, err)
	}
	pair := issued{access: access, scope: scope}
	_ = s.write(ctx, func(st *state) error { // fn never fails
		fault = s.useRefreshToken(st, hash, now)
		if fault == nil {
			pair.refresh = s.storePair(st, st.grants.rows[family.ID], access, now)
		}
		return nil
	})
	return pair, fault
}

// useRefreshToken spends a token, or says why it cannot be spent.
func (s *Simulator) useRefreshToken(st *state, hash string, now time.Time) *tokenError {
	id, ok := st.refreshTokenByHash[hash]
	if !ok { // a reset came between
		return invalidGrant("the refresh token is unknown")
	}
	row := st.refreshTokens.rows[id]
	current, _ := st.settings.get(only)
	leeway := time.Duration(current.Faults.Leeway)
	switch st.tokenState(row, now) {
	case stateUsed:
		s.storeTallies(st, func(t *tallies) { t.Replays++ })
		if leeway == 0 {
			s.revoke(st, row.GrantID, "refresh token replayed")
			return invalidGrant("the refresh token was used before: its authorization is revoked")
		}
		if now.Sub(row.UsedAt) > leeway || st.grants.rows[row.GrantID].Revoked {
			return invalidGrant("the refresh token was used before")
		}
	case stateRevoked:
		return invalidGrant("the authorization is revoked")
	case stateExpired:
		return invalidGrant("the refresh token has expired")
	default:
		row.UsedAt = now
	}
	row.Processed++
	st.refreshTokens.set(id, row)
	return nil
}

// narrowScope returns the scope to issue: the grant's, or the part of it asked for.
func narrowScope(granted, asked string) (string, *tokenError) {
	if asked == "" {
		return granted, nil
	}
	scope, ok := readScope(asked)
	if !ok || len(scope) > len(granted) {
		return "", &tokenError{http.StatusBadRequest, "invalid_scope", "scope is more than was granted"}
	}
	return scope, nil
}

// storePair stores an access token and, if the grant is for offline access, a new
// refresh token, which it returns ("" otherwise).
func (s *Simulator) storePair(st *state, g grant, access string, now time.Time) (refresh string) {
	s.sweepAccessTokens(st, now)
	st.accessTokens.set(hashSecret(access), accessToken{GrantID: g.ID, ExpiresAt: now.Add(accessLife)})
	if g.Scope == scopeAdmin {
		return ""
	}
	refresh = newSecret()
	row := refreshToken{
		ID: newID(prefixRefreshToken), Seq: st.nextSeq(), Hash: hashSecret(refresh), GrantID: g.ID, ExpiresAt: now.Add(refreshLife),
	}
	st.refreshTokens.set(row.ID, row)
	st.refreshTokenByHash[row.Hash] = row.ID
	return refresh
}

// sweepAccessTokens forgets expired access tokens whenever their number has
// reached a power of two, so that the cost is spread.
func (s *Simulator) sweepAccessTokens(st *state, now time.Time) {
	count := len(st.accessTokens.rows)
	if count < 1024 || count&(count-1) != 0 {
		return
	}
	for hash, row := range st.accessTokens.rows {
		if !now.Before(row.ExpiresAt) {
			st.accessTokens.remove(hash)
		}
	}
}

// answerTokens sends the pair. If it goes out whole to a client that is still
// there, that counts as an answer for the refresh token presented. The count is
// made before the last byte, so that a client that has read the answer finds it
// in the ledger, and unmade if that byte fails.
func (s *Simulator) answerTokens(w http.ResponseWriter, r *http.Request, pair issued, presented string) {
	body := map[string]any{
		"access_token": pair.access, "token_type": "Bearer", "expires_in": int(accessLife / time.Second), "scope": pair.scope,
	}
	if pair.refresh != "" {
		body["refresh_token"] = pair.refresh
	}
	text, err := json.Marshal(body)
	if err != nil {
		s.answerTokenError(w, r, s.tokenFailure(r.Context(), err))
		return
	}
	last := len(text) - 1
	if writeToken(w, http.StatusOK, len(text), text[:last]) != nil || r.Context().Err() != nil {
		return
	}
	ctx := context.WithoutCancel(r.Context())
	s.countAnswer(ctx, presented, 1)
	_, err = w.Write(text[last:])
	if errors.Join(err, http.NewResponseController(w).Flush()) != nil || r.Context().Err() != nil {
		s.countAnswer(ctx, presented, -1)
	}
}

// countAnswer adds by to the answers of the refresh token named id, if it exists.
func (s *Simulator) countAnswer(ctx context.Context, id string, by int) {
	_ = s.write(ctx, func(st *state) error { // fn never fails
		if row, ok := st.refreshTokens.get(id); ok {
			row.Answered += by
			st.refreshTokens.set(id, row)
		}
		return nil
	})
}

func (s *Simulator) answerTokenError(w http.ResponseWriter, r *http.Request, fault *tokenError) {
	if fault.status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="prisma-simulator"`)
	}
	text, err := json.Marshal(map[string]string{"error": fault.code, "error_description": fault.description})
	if err != nil { // strings always encode
		return
	}
	_ = writeToken(w, fault.status, len(text), text) // a client that left has no use for the error
}

// writeToken writes the head of an answer of length bytes and the part of its
// body given, and flushes, so that a failure to send shows here.
func writeToken(w http.ResponseWriter, status, length int, part []byte) error {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(length))
	header.Set("Cache-Control", "no-store")
	header.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, err := w.Write(part)
	return errors.Join(err, http.NewResponseController(w).Flush())
}

// tokenFailure logs a fault of the simulator itself.
func (s *Simulator) tokenFailure(ctx context.Context, err error) *tokenError {
	s.logger.ErrorContext(ctx, "prisma simulator: a token cannot be made", slog.Any("error", err))
	return &tokenError{http.StatusInternalServerError, "server_error", "the simulator failed"}
}
