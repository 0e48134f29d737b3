package prisma

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"
)

// maxCallbackURL is the longest callback URL that is read, in bytes.
const maxCallbackURL = 16 << 10

// ErrWrongState is the cause of the AuthError for a callback that belongs to another
// login than the expected one, or to none. Whoever waits for the right one may go on
// waiting.
var ErrWrongState = errors.New("the state is not that of the login")

var (
	// errOvertaken says that a logout or a later login has taken effect since.
	errOvertaken = errors.New("overtaken by a logout or another login")

	// errSDKClosed says that Close was called.
	errSDKClosed = errors.New("prisma: the SDK is closed")
)

// HandleCallback ends a login: it checks the URL that the browser came back to, exchanges
// its code for tokens in exactly one request, and stores them with the workspace that
// the user chose. callbackURL is the whole URL or, as a server sees it, only path and
// query (http.Request.URL.String()); verifier and expectedState are those of LoginURL,
// from where only this browser could bring them.
//
// It fails with an *AuthError, before anything is exchanged, in this order, if
//   - the URL can't be parsed or one of its OAuth parameters is doubled;
//   - it brings an error, such as access_denied: the message is "error: description";
//   - it has no code;
//   - its state is not expectedState, or that is empty: the login was begun by somebody
//     else;
//   - verifier is empty;
//   - its iss is not the authorization server, or is missing although the server sends
//     it always.
//
// The rest of the URL is not compared with the redirect URI. Proxies rewrite scheme, host
// and path, so that an honest server often can't know the address its user sees; and
// nothing depends on it, because Prisma checked where it sends the code, and the state,
// the verifier and iss tie the code to this browser, this login and this server.
//
// Then *AuthError means that Prisma refused the code or the client;
// *FetchError that there was no usable answer, or one whose access token
// names no workspace; Sent tells whether the code may be spent. The user has to begin
// again in each case, because a code is never sent twice. Without a refresh token in the
// answer, as without offline_access, none is stored.
//
// When ctx ends before the request, nothing is sent. When it ends later, HandleCallback
// returns with its error, but the login goes on and its tokens are stored: hanging up
// would leave a grant that nobody holds. Logout or a later HandleCallback stop that;
// Close waits for it. If storing fails it is tried again for as long as
// RefreshSettings.Write (90 s), since these tokens are the only ones; then they are
// dropped and the storage's error comes back wrapped.
//
//	POST /token  grant_type=authorization_code&code=&redirect_uri=&code_verifier=
//	             &client_id=[&client_secret=]
//
// Source: RFC 6749 sections 4.1.2 to 4.1.4, RFC 7636 section 4.5, RFC 9207 section 2.4.
func (s *SDK) HandleCallback(ctx context.Context, callbackURL, verifier, expectedState string) error {
	ticket := s.tickets.Add(1) // first: a logout from now on comes after this login
	params, err := readCallback(callbackURL)
	if err != nil {
		return err
	}
	code := params.Get("code")
	switch {
	case code == "":
		return newAuthError("No authorization code in the callback URL.", nil)
	case !sameSecret(params.Get("state"), expectedState):
		return newAuthError("Invalid state parameter: this callback belongs to no login that was begun here.", ErrWrongState)
	case verifier == "":
		return newAuthError("The verifier of this login is missing. Please log in again.", nil)
	}
	// Only now: nobody else's callback makes this process send anything.
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.oauth.CheckIssuer(params); err != nil {
		return newAuthError("The callback does not come from Prisma's authorization server.", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("handle the callback: %w", err)
	}
	return s.login(ctx, ticket, code, verifier)
}

// ready makes sure that the authorization server may be used.
func (s *SDK) ready(ctx context.Context) error {
	err := s.discovery.ensure(ctx)
	if _, bad := errors.AsType[*MetadataError](err); bad {
		return newAuthError("Prisma's authorization server can't be trusted with a login: its metadata is not acceptable.", err)
	}
	return err
}

// readCallback returns the parameters of a callback URL, unless it brings an error.
func readCallback(callbackURL string) (url.Values, error) {
	invalid := newAuthError("Invalid callback URL.", nil)
	if len(callbackURL) > maxCallbackURL {
		return nil, invalid
	}
	u, err := url.Parse(callbackURL)
	if err != nil || !u.IsAbs() && !strings.HasPrefix(callbackURL, "/") {
		return nil, invalid // without the parser's error, which repeats the URL with its code
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, invalid
	}
	for _, name := range []string{"code", "state", "error", "error_description", "iss"} {
		if len(params[name]) > 1 {
			return nil, invalid // two readers could take different values
		}
	}
	if code := params.Get("error"); code != "" {
		return nil, callbackError(code, params.Get("error_description"))
	}
	return params, nil
}

// sameSecret compares two secrets, of which neither may be empty, in constant time.
func sameSecret(got, want string) bool {
	return got != "" && want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

// login exchanges the code and stores the tokens, on a goroutine that ctx can't stop.
func (s *SDK) login(ctx context.Context, ticket int64, code, verifier string) error {
	if !s.refresher.drain.enter() {
		return errSDKClosed
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			s.refresher.drain.leave()
			done <- err
		}()
		defer s.refresher.recoverPanic(context.WithoutCancel(ctx), s.conn, &err)
		err = s.exchange(context.WithoutCancel(ctx), ticket, code, verifier)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("handle the callback, which goes on in the background: %w", ctx.Err())
	}
}

// exchange makes the one token request of a login and stores what comes back.
func (s *SDK) exchange(ctx context.Context, ticket int64, code, verifier string) error {
	begun := s.now()
	grant, err := s.oauth.ExchangeCode(ctx, s.identity, s.redirect, code, verifier)
	if err != nil {
		return loginFailure(err)
	}
	return s.keep(ctx, ticket, grant.Tokens(begun))
}

// keep stores the tokens of a login, trying for as long as a lease would allow.
func (s *SDK) keep(ctx context.Context, ticket int64, tokens Tokens) error {
	settings := s.refresher.settings
	pause, begun := settings.SaveRetryFrom, s.now()
	for try := 1; ; try++ {
		err := s.refresher.write(ctx, s.conn, func(ctx context.Context) error { return s.storeLogin(ctx, ticket, tokens) })
		switch {
		case err == nil:
			s.refresher.backoffs.clear(s.conn.Key) // what failed had to do with the tokens before
			return nil
		case errors.Is(err, errOvertaken):
			return newAuthError("Another login or a logout has taken the place of this one.", err)
		case s.now().Sub(begun) >= settings.Write:
			return s.giveUp(ctx, err)
		case try == 1:
			s.logger.ErrorContext(ctx, "tokens of a login can't be stored yet", slog.Any("error", err))
		}
		select {
		case <-time.After(pause):
		case <-s.refresher.drain.gaveUp:
			return s.giveUp(ctx, err)
		}
		pause = min(2*pause, settings.SaveRetryTo)
	}
}

// giveUp drops the tokens of a login that could not be stored. Their user is there and
// can begin again.
func (s *SDK) giveUp(ctx context.Context, err error) error {
	s.logger.ErrorContext(ctx, "tokens of a login dropped: they could not be stored", slog.Any("error", err))
	return fmt.Errorf("store the tokens of the login: %w", err)
}

// storeLogin writes the tokens unless a logout, or a login that began later, has taken
// effect meanwhile.
func (s *SDK) storeLogin(ctx context.Context, ticket int64, tokens Tokens) error {
	return s.gate.pass(ctx, func() error {
		if ticket < s.ended {
			return errOvertaken
		}
		tokens.ReadAt = time.Time{} // a storage that keeps the whole value must not take it for its clock
		if err := s.storage.SetTokens(ctx, tokens); err != nil {
			return err
		}
		s.ended = ticket
		return nil
	})
}
