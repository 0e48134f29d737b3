package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// startPrisma starts a simulator for one example, which closes it. Its user agrees to
// everything that the login page asks.
func startPrisma() *examplePrisma {
	p := &examplePrisma{ClientSecret: prismasimtest.ClientSecret}
	p.Server = prismasimtest.Start(&p.tb)
	p.control(http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": prismasimtest.WorkspaceA})
	return p
}

// examplePrisma is a simulator, and the user who sits in front of a browser.
type examplePrisma struct {
	*prismasimtest.Server

	ClientSecret string // of the client "client_partner"

	tb exampleTB
}

// Close ends the simulator.
func (p *examplePrisma) Close() { p.tb.close() }

func (p *examplePrisma) control(method, path string, body map[string]string) {
	p.Control(&p.tb, method, path, body, nil)
}

// consent opens the login page and returns the URL that the browser is then sent to.
func (p *examplePrisma) consent(loginURL string) string {
	response, err := get(http.DefaultTransport, loginURL) // follows no redirect
	if err != nil {
		log.Panicf("open the login page: %v", err)
	}
	defer response.Body.Close()
	return response.Header.Get("Location")
}

// refuse is consent by a user who says no.
func (p *examplePrisma) refuse(loginURL string) string {
	p.control(http.MethodPut, "consent", map[string]string{"mode": "deny"})
	return p.consent(loginURL)
}

// removeIntegration is the user who takes back what they agreed to.
func (p *examplePrisma) removeIntegration() {
	p.control(http.MethodPost, "revoke", map[string]string{"grant": p.Ledger(&p.tb).RefreshTokens[0].Grant})
	p.control(http.MethodPost, "expire-access-tokens", nil)
}

// openBrowser goes where the URL leads, as a browser that the program starts.
func (p *examplePrisma) openBrowser(url string) error {
	response, err := get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, url)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// visit opens a page of the server in a browser that keeps cookies, and returns what it
// shows in the end.
func visit(server *httptest.Server, path string) string {
	jar, err := cookiejar.New(nil)
	if err != nil {
		log.Panicf("make a cookie jar: %v", err)
	}
	browser := server.Client()
	browser.Jar = jar
	response, err := get(browser, server.URL+path)
	if err != nil {
		log.Panicf("visit %s: %v", path, err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		log.Panicf("read the page: %v", err)
	}
	return string(page)
}

// get sends a GET request by an *http.Client or a transport.
func get(by any, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	if client, ok := by.(*http.Client); ok {
		return client.Do(request)
	}
	return by.(http.RoundTripper).RoundTrip(request)
}

// exampleTB is what an Example has in place of a testing.TB. A failure is printed, which
// no example expects, or a panic.
type exampleTB struct {
	testing.TB // nil: what is not defined below is not used here

	cleanups []func()
}

func (*exampleTB) Helper()                  {}
func (*exampleTB) Context() context.Context { return context.Background() }
func (*exampleTB) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "FAIL: "+format+"\n", args...)
}
func (*exampleTB) Fatalf(format string, args ...any) { log.Panicf(format, args...) }
func (tb *exampleTB) Cleanup(f func())               { tb.cleanups = append(tb.cleanups, f) }

func (tb *exampleTB) close() {
	for len(tb.cleanups) > 0 {
		last := len(tb.cleanups) - 1
		f := tb.cleanups[last]
		tb.cleanups = tb.cleanups[:last]
		f()
	}
}

// errNoSecret is what a keyring says that has no secret of that name.
var errNoSecret = errors.New("no such secret")

// memoryKeyring stands for the keyring of an operating system.
type memoryKeyring struct{ secrets sync.Map }

func (k *memoryKeyring) Get(name string) (string, error) {
	secret, ok := k.secrets.Load(name)
	if !ok {
		return "", errNoSecret
	}
	return secret.(string), nil
}

func (k *memoryKeyring) Set(name, secret string) error {
	k.secrets.Store(name, secret)
	return nil
}

func (k *memoryKeyring) Delete(name string) error {
	k.secrets.Delete(name)
	return nil
}
