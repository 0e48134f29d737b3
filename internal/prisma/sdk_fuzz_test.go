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
	"unicode"
	"unicode/utf8"

	"github.com/connect-prisma/server/internal/prisma"
)

// FuzzHandleCallback: whatever a browser brings, nothing panics, a token request is made
// only for a state that is the expected one and not empty, and it carries the URL's own
// code; the error's text is fit for a terminal.
func FuzzHandleCallback(f *testing.F) {
	var requests atomic.Int32
	var lastCode atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		lastCode.Store(r.PostFormValue("code"))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
	}))
	f.Cleanup(server.Close)
	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID: "c", RedirectURI: "http://localhost/cb", TokenStorage: prisma.NewMemoryStorage(now, 0),
		AuthBaseURL: server.URL, DisableDiscovery: true,
	})
	if err != nil {
		f.Fatalf("NewSDK() error = %v", err)
	}
	for _, callback := range []string{
		"http://localhost/cb?code=c&state=s", "/cb?code=c&state=s", "/cb?code=c&state=", "/cb?code=c", "/cb?state=s", "?code=c&state=s",
		"/cb?code=c&state=s&state=s", "/cb?code=c&code=d&state=s", "/cb?code=c&state=s&iss=x", "/cb?code=c&state=s&iss=" + server.URL,
		"/cb?error=access_denied&error_description=a%00b%0a%1b%5b31m%e2%80%ae%ff&state=s", "/cb?error=&code=c&state=s",
		"/cb?code=c;state=s", "/cb?code=%zz&state=s", "http://[::1/cb", "vscode://a.b/c?code=c&state=s", "mailto:a?code=c&state=s",
		"/cb#code=c&state=s", "//evil/cb?code=c&state=s", "/cb?%63ode=c&st%61te=s", "/cb?code=" + strings.Repeat("x", 20_000) + "&state=s",
	} {
		f.Add(callback, "v", "s")
		f.Add(callback, "", "")
	}
	f.Fuzz(func(t *testing.T, callback, verifier, expected string) {
		before := requests.Load()
		err := sdk.HandleCallback(t.Context(), callback, verifier, expected)
		if err == nil {
			t.Fatal("HandleCallback() succeeds although every code is refused")
		}
		failure, ok := errors.AsType[*prisma.AuthError](err)
		if !ok {
			t.Fatalf("HandleCallback() error = %v, want an *AuthError", err)
		}
		text := failure.Error()
		if !utf8.ValidString(text) || utf8.RuneCountInString(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("error text %q is not fit to be shown", text)
		}
		sent := requests.Load() - before
		if sent == 0 {
			return
		}
		query := url.Values{}
		if u, err := url.Parse(callback); err == nil {
			query = u.Query()
		}
		if sent != 1 || expected == "" || verifier == "" || len(query["state"]) != 1 || query.Get("state") != expected ||
			query.Get("code") == "" || lastCode.Load() != query.Get("code") || query.Get("error") != "" {
			t.Errorf("%d token requests for callback %q, verifier %q, state %q", sent, callback, verifier, expected)
		}
	})
}
