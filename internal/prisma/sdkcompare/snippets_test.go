package sdkcompare_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// The bodies of the functions called snippet… are the Go examples of the documentation,
// in its order.

func snippetClient(ctx context.Context, out io.Writer, serviceToken, apiURL string) error {
	client, err := managementapi.New(managementapi.Config{
		Token:   serviceToken,
		BaseURL: apiURL, // left out: Prisma's own
	})
	if err != nil {
		return err
	}
	project, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{Name: new("shop")})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, project.ID, project.DatabaseURL()) // prints [secret]; Reveal gives the string, which is shown this once
	for project, err := range client.AllProjects(ctx, managementapi.ListProjectsParams{}) {
		if err != nil {
			return err
		}
		fmt.Fprintln(out, project.Name)
	}
	return nil
}

func snippetSDK(clientID, redirectURI string) (*prisma.SDK, error) {
	storage, err := prisma.NewFileStorage(prisma.FileStorageConfig{}) // ~/.prisma/credentials.json
	if err != nil {
		return nil, err
	}
	return prisma.NewSDK(prisma.SDKConfig{
		ClientID:     clientID, // and ClientSecret, if the client has one
		RedirectURI:  redirectURI,
		TokenStorage: storage,
	})
}

func snippetLogin(w http.ResponseWriter, r *http.Request, sdk *prisma.SDK, remember func(http.ResponseWriter, prisma.Login)) {
	login, err := sdk.LoginURL(r.Context(), prisma.LoginOptions{})
	if err != nil {
		http.Error(w, "Prisma can't be reached just now.", http.StatusBadGateway)
		return
	}
	remember(w, login) // State and Verifier, in an encrypted cookie
	http.Redirect(w, r, login.URL, http.StatusSeeOther)
}

func snippetCallback(w http.ResponseWriter, r *http.Request, sdk *prisma.SDK, recall func(*http.Request) prisma.Login) {
	login := recall(r) // and forget it: it is good for one callback
	err := sdk.HandleCallback(r.Context(), r.URL.String(), login.Verifier, login.State)
	if failure, ok := errors.AsType[*prisma.AuthError](err); ok {
		http.Error(w, failure.Error(), http.StatusForbidden) // such as "access_denied: …"
		return
	}
	if err != nil {
		http.Error(w, "The login could not be finished. Please try again.", http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func snippetErrors(ctx context.Context, sdk *prisma.SDK, id string) (string, error) {
	project, err := sdk.Client().GetProject(ctx, id)
	if failure, ok := errors.AsType[*prisma.AuthError](err); ok {
		return "", fmt.Errorf("please log in again: %w", failure)
	}
	if failure, ok := errors.AsType[*prisma.APIError](err); ok && failure.Status == http.StatusNotFound {
		return "", nil // there is no such project
	}
	if err != nil { // a *prisma.FetchError among others: no usable answer
		return "", err
	}
	return project.Name, nil
}

// TestSnippetsAreThese compares the documentation's Go examples with the functions here.
func TestSnippetsAreThese(t *testing.T) {
	t.Parallel()

	files := token.NewFileSet()
	source, err := os.ReadFile("snippets_test.go")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(files, "snippets_test.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var here []string
	for _, declaration := range file.Decls {
		if f, ok := declaration.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "snippet") {
			body := source[files.Position(f.Body.Lbrace).Offset+2 : files.Position(f.Body.Rbrace).Offset]
			here = append(here, regexp.MustCompile(`(?m)^\t`).ReplaceAllString(string(body), ""))
		}
	}

	text, err := os.ReadFile(filepath.FromSlash(document))
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		there = append(there, block[1])
	}
	if diff := cmp.Diff(here, there); diff != "" {
		t.Errorf("Go examples (-test +%s):\n%s", document, diff)
	}
}

// TestSnippets runs them against a simulator.
func TestSnippets(t *testing.T) {
	t.Parallel()

	if sdk, err := snippetSDK("client_public", redirectURI); err != nil || sdk == nil {
		t.Errorf("snippetSDK() = %v, %v", sdk, err) // touches no file yet
	}
	s := &stage{house: newHouse(t), t: t, side: ours{}, log: newTranscript()}
	s.front.log.Store(s.log)
	s.consentFor(prismasimtest.WorkspaceA)
	var printed strings.Builder
	if err := snippetClient(t.Context(), &printed, prismasimtest.ServiceToken, s.front.URL); err != nil {
		t.Errorf("snippetClient() error = %v", err)
	}
	if got := printed.String(); !strings.HasSuffix(got, " [secret]\nshop\n") {
		t.Errorf("snippetClient() printed %q", got)
	}

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID: clientID, RedirectURI: redirectURI, APIBaseURL: s.front.URL, AuthBaseURL: s.front.URL,
		TokenStorage: prisma.NewMemoryStorage(s.now, time.Hour), Transport: ourTransport(s), Now: s.now,
	})
	if err != nil {
		t.Fatalf("NewSDK() error = %v", err)
	}
	if _, err := snippetErrors(t.Context(), sdk, "proj_missing"); !strings.HasPrefix(fmt.Sprint(err), "please log in again") {
		t.Errorf("snippetErrors() error = %v before a login", err)
	}

	var begun prisma.Login
	answer := httptest.NewRecorder()
	snippetLogin(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/login", http.NoBody), sdk,
		func(_ http.ResponseWriter, login prisma.Login) { begun = login })
	callback := must(s, s.consent(answer.Header().Get("Location"))).RequestURI()
	for _, want := range []int{http.StatusSeeOther, http.StatusForbidden} { // the code works once
		answer = httptest.NewRecorder()
		snippetCallback(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, callback, http.NoBody), sdk,
			func(*http.Request) prisma.Login { return begun })
		if answer.Code != want {
			t.Errorf("snippetCallback() answered %d, want %d: %s", answer.Code, want, answer.Body)
		}
	}
}
