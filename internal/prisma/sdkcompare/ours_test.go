package sdkcompare_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// ours is the side of package prisma.
type ours struct{}

func (ours) storage(s *stage, kind storageKind, set *pair, broken failures) storage {
	made := &ourStorage{now: s.now, waiting: make(chan struct{}), turn: make(chan struct{}, 1)}
	made.TokenStorage = made.as(kind)
	if set != nil {
		tokens := prisma.Tokens{WorkspaceID: set.workspace, Access: set.access, Refresh: set.refresh}
		tokens.IssuedAt = s.now()
		tokens.ExpiresAt = tokens.IssuedAt.Add(time.Hour)
		if err := made.SetTokens(s.t.Context(), tokens); err != nil {
			s.t.Fatalf("fill the storage: %v", err)
		}
	}
	made.failures = broken
	return made
}

func (ours) sdk(s *stage, of storage, options sdkOptions) actor {
	cfg := prisma.SDKConfig{
		ClientID: options.id, ClientSecret: options.secret, RedirectURI: redirectURI, TokenStorage: tokenStorageOf(s, of),
		APIBaseURL: options.apiURL, AuthBaseURL: options.authURL, Now: s.now,
		Transport: ourTransport(s), Retry: quickRetries(), Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, //nolint:nilnil // no proxy
		// The pause after a failure passes when the scenario's clock says so.
		Refresh: prisma.RefreshSettings{BackoffFrom: time.Minute, BackoffTo: time.Minute, SaveRetryFrom: time.Millisecond},
	}
	if options.giveUp {
		cfg.Refresh.Write, cfg.Refresh.WriteAttempt = time.Millisecond, time.Millisecond
	}
	sdk, err := prisma.NewSDK(cfg)
	if err != nil {
		s.t.Fatalf("NewSDK() error = %v", err)
	}
	return &ourActor{s: s, sdk: sdk, api: sdk.Client()}
}

func (ours) client(s *stage, options clientOptions) actor {
	header := http.Header{}
	for key, value := range options.header {
		header.Set(key, value)
	}
	client, err := managementapi.New(managementapi.Config{
		BaseURL: options.baseURL, Token: options.token, Header: header, Transport: ourTransport(s), Retry: quickRetries(),
	})
	if err != nil {
		s.t.Fatalf("New() error = %v", err)
	}
	return &ourActor{s: s, api: client}
}

// quick waits for the call: it has to return by itself.
func (ours) quick(s *stage, call *pending) bool {
	s.wait(call.done, call.step)
	return true
}

func ourTransport(s *stage) http.RoundTripper {
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	s.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// quickRetries are the defaults with short pauses.
func quickRetries() managementapi.RetrySettings {
	return managementapi.RetrySettings{From: time.Millisecond, To: time.Millisecond}
}

// ourActor is an SDK or, with sdk nil, a client.
type ourActor struct {
	s   *stage
	sdk *prisma.SDK
	api *managementapi.Client
}

func (a *ourActor) loginURL(ctx context.Context, scope string, params map[string]string) (login, *failure) {
	further := url.Values{}
	for key, value := range params {
		further.Set(key, value)
	}
	begun, err := a.sdk.LoginURL(ctx, prisma.LoginOptions{Scope: scope, Params: further})
	return login{URL: begun.URL, State: begun.State, Verifier: begun.Verifier}, ourFailure(err)
}

func (a *ourActor) handleCallback(ctx context.Context, callbackURL, verifier string, state *string) *failure {
	expected := ""
	if state != nil {
		expected = *state
	}
	return ourFailure(a.sdk.HandleCallback(ctx, callbackURL, verifier, expected))
}

func (a *ourActor) call(ctx context.Context, op operation) (any, *failure) {
	value, err := op.ours(ctx, a.api)
	if err != nil {
		return nil, ourFailure(err)
	}
	return value, nil
}

func (a *ourActor) logout(ctx context.Context) *failure { return ourFailure(a.sdk.Logout(ctx)) }

func (a *ourActor) finish() {
	if a.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.s.t.Context()), 20*time.Second)
	defer cancel()
	if err := a.sdk.Close(ctx); err != nil {
		a.s.t.Errorf("Close() error = %v", err)
	}
}

// ourFailure describes an error by its first class; cancellation is one in itself.
func ourFailure(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Kind: "Error", Message: err.Error()}
	api, isAPI := errors.AsType[*prisma.APIError](err)
	fetch, isFetch := errors.AsType[*prisma.FetchError](err)
	auth, isAuth := errors.AsType[*prisma.AuthError](err)
	switch {
	case isAuth && (isFetch || isAPI), isFetch && isAPI:
		f.Kind = "several classes"
	case errors.Is(err, context.Canceled):
		f.Kind = "Canceled"
	case isAuth:
		f.Kind, f.RefreshTokenInvalid = "AuthError", auth.RefreshTokenInvalid
	case isFetch:
		f.Kind, f.HasCause = "FetchError", fetch.Unwrap() != nil
	case isAPI:
		f.Kind, f.Message = "APIError", api.Message
		f.status, f.code, f.hint = api.Status, api.Code, api.Hint
		if api.RetryAfter > 0 {
			f.retryAfter = strconv.Itoa(int(api.RetryAfter / time.Second))
		}
	}
	return f
}

// errStorage is what a storage says that fails.
var errStorage = errors.New("storage is down")

// ourStorage is a token storage with what its kind says, by way of the embedded one.
type ourStorage struct {
	prisma.TokenStorage

	now     func() time.Time
	waiting chan struct{} // closed when a refresh waits for another one
	turn    chan struct{} // the refresh lock

	mu       sync.Mutex
	failures failures
	tokens   *prisma.Tokens
}

// as returns the storage as a TokenStorage of the given kind.
func (o *ourStorage) as(kind storageKind) prisma.TokenStorage {
	switch kind {
	case plain:
		return plainStorage{o}
	case locking:
		return lockingStorage{plainStorage{o}}
	case best:
		return &watchedLease{MemoryStorage: prisma.NewMemoryStorage(o.now, 0), waiting: o.waiting}
	}
	return nil
}

func tokenStorageOf(s *stage, of storage) prisma.TokenStorage {
	made, ok := of.(*ourStorage)
	if !ok {
		s.t.Fatal("a storage of the other side")
	}
	return made.TokenStorage
}

func (o *ourStorage) contended() <-chan struct{} { return o.waiting }

func (o *ourStorage) stored() *pair {
	o.mu.Lock()
	o.failures = failures{}
	o.mu.Unlock()
	tokens, err := o.Tokens(context.Background())
	if err != nil {
		return nil
	}
	return &pair{workspace: tokens.WorkspaceID, access: tokens.Access, refresh: tokens.Refresh, expires: !tokens.ExpiresAt.IsZero()}
}

// plainStorage is what a user of the SDK writes.
type plainStorage struct{ o *ourStorage }

// Tokens returns the stored pair.
func (p plainStorage) Tokens(context.Context) (prisma.Tokens, error) {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	if p.o.failures.get > 0 {
		p.o.failures.get--
		return prisma.Tokens{}, errStorage
	}
	if p.o.tokens == nil {
		return prisma.Tokens{}, fault.New(fault.NotFound, "Nobody is logged in.", nil)
	}
	return *p.o.tokens, nil
}

// SetTokens replaces the pair.
func (p plainStorage) SetTokens(_ context.Context, tokens prisma.Tokens) error {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	if p.o.failures.set > 0 {
		p.o.failures.set--
		return errStorage
	}
	tokens.ReadAt, tokens.Generation = time.Time{}, 0
	p.o.tokens = &tokens
	return nil
}

// ClearTokens forgets the pair.
func (p plainStorage) ClearTokens(context.Context) error {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	if p.o.failures.clear > 0 {
		p.o.failures.clear--
		return errStorage
	}
	p.o.tokens = nil
	return nil
}

// lockingStorage has what is optional in the published SDK too.
type lockingStorage struct{ plainStorage }

var (
	_ prisma.RefreshLock     = lockingStorage{}
	_ prisma.CompareAndClear = lockingStorage{}
)

// LockRefresh waits for the lock.
func (l lockingStorage) LockRefresh(ctx context.Context) (func(), error) {
	unlock := func() { <-l.o.turn }
	select {
	case l.o.turn <- struct{}{}:
		return unlock, nil
	default:
		closeOnce(l.o.waiting)
	}
	select {
	case l.o.turn <- struct{}{}:
		return unlock, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ClearTokensIfCurrent forgets the pair if it is still the stored one.
func (l lockingStorage) ClearTokensIfCurrent(_ context.Context, tokens prisma.Tokens) error {
	l.o.mu.Lock()
	defer l.o.mu.Unlock()
	if l.o.tokens != nil && l.o.tokens.SamePair(tokens) {
		l.o.tokens = nil
	}
	return nil
}

// watchedLease tells when a refresh finds another one at work.
type watchedLease struct {
	*prisma.MemoryStorage

	once    sync.Once
	waiting chan struct{}
}

// Claim takes the lease.
func (w *watchedLease) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	claim, err := w.MemoryStorage.Claim(ctx, refused)
	if claim.Held {
		w.once.Do(func() { close(w.waiting) })
	}
	return claim, err //nolint:wrapcheck // passed on
}

// list is a page as the API writes it.
func list[T any](page managementapi.Page[T], err error) (any, error) {
	return map[string]any{
		"data":       page.Items,
		"pagination": map[string]any{"hasMore": page.NextCursor != "", "nextCursor": cmp.Or[any](emptyToNil(page.NextCursor), nil)},
	}, err
}

func emptyToNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// data is a value as the API writes it.
func data[T any](value T, err error) (any, error) { return map[string]any{"data": value}, err }
