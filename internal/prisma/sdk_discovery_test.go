package prisma_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

const metadataPath = "/.well-known/oauth-authorization-server"

// metadata is an authorization server whose metadata a test writes; "" answers 404. The
// issuer's URL stands for ISSUER.
type metadata struct {
	*httptest.Server

	document atomic.Pointer[string]
	reads    atomic.Int32
	tokens   atomic.Int32
}

const (
	goodMetadata = `{"issuer":"ISSUER","authorization_endpoint":"ISSUER/oauth/start","token_endpoint":"ISSUER/oauth/token",` +
		`"response_types_supported":["code"],"code_challenge_methods_supported":["S256"]}`
	plainMetadata = `{"issuer":"ISSUER","authorization_endpoint":"ISSUER/oauth/start","token_endpoint":"ISSUER/oauth/token",` +
		`"response_types_supported":["code"],"code_challenge_methods_supported":["plain"]}`
	issMetadata = `{"issuer":"ISSUER","authorization_endpoint":"ISSUER/oauth/start","token_endpoint":"ISSUER/oauth/token",` +
		`"response_types_supported":["code"],"code_challenge_methods_supported":["S256"],"authorization_response_iss_parameter_supported":true}`
)

func newMetadata(t *testing.T, document string) *metadata {
	t.Helper()
	m := &metadata{}
	m.document.Store(&document)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+metadataPath, func(w http.ResponseWriter, r *http.Request) {
		m.reads.Add(1)
		if *m.document.Load() == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, strings.ReplaceAll(*m.document.Load(), "ISSUER", m.URL))
	})
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, _ *http.Request) {
		m.tokens.Add(1)
		_, _ = io.WriteString(w, `{"access_token":"`+jwt(`{"workspace_id":"wksp_1"}`)+`","refresh_token":"r2"}`)
	})
	m.Server = httptest.NewServer(mux)
	t.Cleanup(m.Close)
	return m
}

// sdk returns an SDK whose clock is moved through offset.
func (m *metadata) sdk(t *testing.T, offset *atomic.Int64, change ...func(*prisma.SDKConfig)) *prisma.SDK {
	t.Helper()
	clock := func() time.Time { return now().Add(time.Duration(offset.Load())) }
	cfg := prisma.SDKConfig{
		ClientID: "c", RedirectURI: "http://localhost/cb", TokenStorage: prisma.NewMemoryStorage(clock, 0),
		AuthBaseURL: m.URL, APIBaseURL: m.URL, Now: clock,
	}
	for _, f := range change {
		f(&cfg)
	}
	sdk, err := prisma.NewSDK(cfg)
	if err != nil {
		t.Fatalf("NewSDK() error = %v", err)
	}
	return sdk
}

func TestLoginUsesMetadata(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		document string
		disabled bool
		page     string // "": refused
		reads    int32
	}{
		"good":         {document: goodMetadata, page: "/oauth/start", reads: 1},
		"none":         {page: "/authorize", reads: 1},
		"not JSON":     {document: "<html>", reads: 1},
		"without S256": {document: plainMetadata, reads: 1},
		"disabled":     {document: plainMetadata, disabled: true, page: "/authorize"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMetadata(t, tc.document)
			sdk := m.sdk(t, new(atomic.Int64), func(c *prisma.SDKConfig) { c.DisableDiscovery = tc.disabled })
			for range 3 { // one reading serves them all
				login, err := sdk.LoginURL(t.Context(), prisma.LoginOptions{})
				if tc.page == "" {
					failure, ok := errors.AsType[*prisma.AuthError](err)
					if _, bad := errors.AsType[*prisma.MetadataError](err); !ok || !bad || failure.RefreshTokenInvalid {
						t.Fatalf("LoginURL() error = %v, want an *AuthError around a *MetadataError", err)
					}
					if err := sdk.HandleCallback(t.Context(), "/cb?code=c&state=s", "v", "s"); !errors.As(err, &failure) {
						t.Errorf("HandleCallback() error = %v, want an *AuthError", err)
					}
					continue
				}
				if err != nil || !strings.HasPrefix(login.URL, m.URL+tc.page+"?") {
					t.Errorf("LoginURL() = %s, %v, want page %s", login.URL, err, tc.page)
				}
			}
			if n := m.reads.Load(); n != tc.reads {
				t.Errorf("%d readings of the metadata, want %d", n, tc.reads)
			}
			if n := m.tokens.Load(); n != 0 {
				t.Errorf("%d token requests, want none", n)
			}
		})
	}
}

// TestMetadataReadAgain: a minute after a failure, an hour after a success; and bad
// metadata does not replace good.
func TestMetadataReadAgain(t *testing.T) {
	t.Parallel()

	m := newMetadata(t, "")
	var offset atomic.Int64
	sdk := m.sdk(t, &offset)
	for i, step := range []struct {
		document string
		pass     time.Duration
		page     string
		reads    int32
	}{
		{document: "", page: "/authorize", reads: 1},
		{document: goodMetadata, pass: 59 * time.Second, page: "/authorize", reads: 1},
		{document: goodMetadata, pass: time.Second, page: "/oauth/start", reads: 2},
		{document: plainMetadata, pass: 59 * time.Minute, page: "/oauth/start", reads: 2},
		{document: plainMetadata, pass: time.Minute, page: "/oauth/start", reads: 3},
		{document: "", pass: time.Minute, page: "/oauth/start", reads: 4},
	} {
		m.document.Store(&step.document)
		offset.Add(int64(step.pass))
		login, err := sdk.LoginURL(t.Context(), prisma.LoginOptions{})
		if err != nil || !strings.HasPrefix(login.URL, m.URL+step.page+"?") || m.reads.Load() != step.reads {
			t.Errorf("step %d: LoginURL() = %s, %v after %d readings, want %s and %d", i, login.URL, err, m.reads.Load(), step.page, step.reads)
		}
	}
}

// TestRefreshGoesWhereTheLoginWent: a process that has not made the login itself reads
// the metadata before its first token request.
func TestRefreshGoesWhereTheLoginWent(t *testing.T) {
	t.Parallel()

	m := newMetadata(t, goodMetadata)
	s := newUserStorage()
	stale := pair("r", 2*time.Hour)
	s.stored = &stale
	sdk := m.sdk(t, new(atomic.Int64), func(c *prisma.SDKConfig) { c.TokenStorage = s })
	_ = call(t.Context(), sdk) // there is no API
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r2" || m.tokens.Load() != 1 {
		t.Errorf("stored = %v, %v after %d token requests, want the pair of the endpoint in the metadata", got, err, m.tokens.Load())
	}
}

func TestCallbackIssuer(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		document string
		iss      []string // none: absent
		ok       bool
	}{
		"promised, there":         {document: issMetadata, iss: []string{"ISSUER"}, ok: true},
		"promised, absent":        {document: issMetadata},
		"promised, wrong":         {document: issMetadata, iss: []string{"https://evil.example"}},
		"not promised, absent":    {document: goodMetadata, ok: true},
		"not promised, there":     {document: goodMetadata, iss: []string{"ISSUER"}, ok: true},
		"not promised, wrong":     {document: goodMetadata, iss: []string{"https://evil.example"}},
		"promised, there and not": {document: issMetadata, iss: []string{"ISSUER", "https://evil.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMetadata(t, tc.document)
			sdk := m.sdk(t, new(atomic.Int64)) // it has not begun the login: the metadata is still unread
			query := url.Values{"code": {"c"}, "state": {"s"}}
			for _, iss := range tc.iss {
				query.Add("iss", strings.ReplaceAll(iss, "ISSUER", m.URL))
			}
			err := sdk.HandleCallback(t.Context(), "http://localhost/cb?"+query.Encode(), "v", "s")
			if _, refused := errors.AsType[*prisma.AuthError](err); (err == nil) != tc.ok || refused == tc.ok {
				t.Errorf("HandleCallback() error = %v, want success %t", err, tc.ok)
			}
			if n := m.tokens.Load(); (n == 1) != tc.ok || n > 1 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}
