package prisma_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// world is a simulator with an address in front of it that a test can stand at, and a
// clock that both sides go by.
type world struct {
	*prismasimtest.Server

	front  string // what the SDK is told: also the issuer
	offset atomic.Int64
	hook   atomic.Pointer[hook]

	tokenRequests atomic.Int32
}

// hook sees each request before the simulator; next answers it.
type hook func(w http.ResponseWriter, r *http.Request, next http.Handler)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.tokenRequests.Add(1)
		}
		if h := w.hook.Load(); h != nil {
			(*h)(rw, r, w.Server)
			return
		}
		w.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	w.front = front.URL
	w.Server = prismasimtest.Start(t, func(c *prismasim.Config) { c.URL = front.URL })
	w.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": prismasimtest.WorkspaceA}, nil)
	return w
}

// intercept sets what stands in front of the simulator from now on; nil: nothing.
func (w *world) intercept(h hook) {
	if h == nil {
		w.hook.Store(nil)
		return
	}
	w.hook.Store(&h)
}

// hold keeps the next token request from the simulator until release; later ones pass.
// arrived is closed once it is there.
func (w *world) hold(t *testing.T) (arrived <-chan struct{}, release func()) {
	t.Helper()
	return w.holdPath(t, "/token")
}

// holdPath does so with requests for another path.
func (w *world) holdPath(t *testing.T, path string) (arrived <-chan struct{}, release func()) {
	t.Helper()
	there, gone := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(gone) })
	t.Cleanup(release)
	var held atomic.Bool
	w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == path && held.CompareAndSwap(false, true) {
			close(there)
			<-gone
		}
		next.ServeHTTP(rw, r)
	})
	return there, release
}

func (w *world) faults(t *testing.T, faults map[string]any) {
	t.Helper()
	w.Control(t, http.MethodPut, "faults", faults, nil)
}

// expire makes the API refuse every access token, which the SDK can't foresee.
func (w *world) expire(t *testing.T) {
	t.Helper()
	w.Control(t, http.MethodPost, "expire-access-tokens", map[string]string{}, nil)
}

// advance moves time on both sides.
func (w *world) advance(t *testing.T, by time.Duration) {
	t.Helper()
	w.Control(t, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
	w.offset.Add(int64(by))
}

func (w *world) now() time.Time { return now().Add(time.Duration(w.offset.Load())) }

// sdk returns an SDK of the partner's confidential client. It is closed when the test
// ends.
func (w *world) sdk(t *testing.T, storage prisma.TokenStorage, change ...func(*prisma.SDKConfig)) *prisma.SDK {
	t.Helper()
	cfg := prisma.SDKConfig{
		ClientID: prismasimtest.ClientID, ClientSecret: prismasimtest.ClientSecret, RedirectURI: prismasimtest.RedirectURI,
		TokenStorage: storage, APIBaseURL: w.front, AuthBaseURL: w.front, Now: w.now,
	}
	for _, f := range change {
		f(&cfg)
	}
	sdk, err := prisma.NewSDK(cfg)
	if err != nil {
		t.Fatalf("NewSDK() error = %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := sdk.Close(ctx); err != nil {
			t.Errorf("Close() error = %v", err)
		}
	})
	return sdk
}

// memory returns an empty storage on the world's clock.
func (w *world) memory() *prisma.MemoryStorage { return prisma.NewMemoryStorage(w.now, 0) }

// begin begins a login and lets the user consent; it returns the login and the URL that
// the browser is sent back to.
func (w *world) begin(t *testing.T, sdk *prisma.SDK, opts prisma.LoginOptions) (prisma.Login, string) {
	t.Helper()
	login, err := sdk.LoginURL(t.Context(), opts)
	if err != nil {
		t.Fatalf("LoginURL() error = %v", err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, login.URL, http.NoBody)
	if err != nil {
		t.Fatalf("request the login URL: %v", err)
	}
	response, err := http.DefaultTransport.RoundTrip(request) // follows no redirect
	if err != nil {
		t.Fatalf("open the login URL: %v", err)
	}
	defer response.Body.Close()
	back, err := response.Location()
	if err != nil {
		t.Fatalf("the login URL answered %d without a redirect", response.StatusCode)
	}
	return login, back.String()
}

// login logs the user in.
func (w *world) login(t *testing.T, sdk *prisma.SDK) {
	t.Helper()
	login, callback := w.begin(t, sdk, prisma.LoginOptions{})
	if err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State); err != nil {
		t.Fatalf("HandleCallback() error = %v", err)
	}
}

// counts are the code exchanges, refreshes and replays that the simulator has seen.
func (w *world) counts(t *testing.T) (codes, refreshes, replays int) {
	t.Helper()
	c := w.Ledger(t).Counters
	return c.CodeExchanges, c.Refreshes, c.Replays
}

// call makes the simplest call there is.
func call(ctx context.Context, sdk *prisma.SDK) error {
	_, err := sdk.Client().GetMe(ctx)
	return err
}

// edit returns rawURL with its query changed.
func edit(t *testing.T, rawURL string, change func(url.Values)) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatalf("parse %q: %v", rawURL, err)
	}
	query := u.Query()
	change(query)
	u.RawQuery = query.Encode()
	return u.String()
}

func wantAuthError(t *testing.T, err error, message string, invalid bool) {
	t.Helper()
	failure, ok := errors.AsType[*prisma.AuthError](err)
	if !ok {
		t.Fatalf("error = %v, want an *AuthError", err)
	}
	if failure.Error() != message || failure.RefreshTokenInvalid != invalid {
		t.Errorf("error = %q, refresh token invalid %t, want %q, %t", failure, failure.RefreshTokenInvalid, message, invalid)
	}
}

func wantAuthCode(t *testing.T, err error, code string) {
	t.Helper()
	if failure, ok := errors.AsType[*prisma.AuthError](err); !ok || failure.Code != code {
		t.Errorf("error = %v, want an *AuthError with the code %q", err, code)
	}
}

func wantFetchError(t *testing.T, err error, sent bool) {
	t.Helper()
	failure, ok := errors.AsType[*managementapi.FetchError](err)
	if !ok {
		t.Fatalf("error = %v, want a *FetchError", err)
	}
	if failure.Sent != sent || failure.Unwrap() == nil {
		t.Errorf("error = %v, sent %t with cause %v, want %t and a cause", failure, failure.Sent, failure.Unwrap(), sent)
	}
	if auth, ok := errors.AsType[*prisma.AuthError](err); ok {
		t.Errorf("error is also the *AuthError %v", auth)
	}
}

// userStorage is a storage as a user would write it: get, set, clear. set, if not nil,
// stands before a write.
type userStorage struct {
	set func(n int) error

	mu     sync.Mutex
	sets   int
	stored *prisma.Tokens
	mem    *prisma.MemoryStorage // for its errors
}

func newUserStorage() *userStorage { return &userStorage{mem: prisma.NewMemoryStorage(now, 0)} }

func (s *userStorage) Tokens(ctx context.Context) (prisma.Tokens, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return prisma.Tokens{}, err
	}
	if s.stored == nil {
		return s.mem.Tokens(ctx)
	}
	return *s.stored, nil
}

func (s *userStorage) SetTokens(_ context.Context, tokens prisma.Tokens) error {
	s.mu.Lock()
	s.sets++
	n := s.sets
	s.mu.Unlock()
	if s.set != nil {
		if err := s.set(n); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = &tokens // the whole value, as anybody would
	return nil
}

func (s *userStorage) ClearTokens(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = nil
	return nil
}

// storages make the kinds of storage that an SDK treats differently.
func storages() map[string]func(*world) prisma.TokenStorage {
	return map[string]func(*world) prisma.TokenStorage{
		"with a lease": func(w *world) prisma.TokenStorage { return w.memory() },
		"plain":        func(*world) prisma.TokenStorage { return newUserStorage() },
	}
}
