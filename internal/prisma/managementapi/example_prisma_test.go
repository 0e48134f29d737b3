package managementapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// shared is the simulator of all examples. The first one starts it, TestMain ends it.
var shared struct {
	*prismasimtest.Server

	tb         exampleTB
	workspaces int
}

// TestMain ends the simulator of the examples, whose databases on the server would
// otherwise stay.
func TestMain(m *testing.M) {
	m.Run()
	shared.tb.close()
}

// startPrisma gives an example a workspace of its own, with the named projects, none of
// which has a database. Examples run one after the other.
func startPrisma(projects ...string) examplePrisma {
	if shared.Server == nil {
		shared.Server = prismasimtest.Start(&shared.tb)
	}
	shared.workspaces++
	id := fmt.Sprintf("wksp_example_%d", shared.workspaces)
	p := examplePrisma{URL: shared.URL, Token: "service-token-of-" + id, projects: map[string]string{}}
	shared.Control(&shared.tb, http.MethodPut, "seed", prismasim.Seed{
		Workspaces:    []prismasim.Workspace{{ID: id, Name: "Partner Inc."}},
		ServiceTokens: []prismasim.ServiceToken{{WorkspaceID: id, Name: "provisioning", Value: p.Token}},
	}, nil)
	for _, name := range projects {
		body := map[string]any{"name": name, "createDatabase": false}
		status, text := shared.Do(&shared.tb, http.MethodPost, "/v1/projects", p.Token, body)
		var made managementapi.CreatedProjectResponse
		if err := json.Unmarshal(text, &made); err != nil || status != http.StatusCreated {
			log.Panicf("make the project %s: %d: %s", name, status, text)
		}
		p.projects[name] = made.Data.ID
	}
	return p
}

// examplePrisma is what an example needs to know of the simulator.
type examplePrisma struct {
	URL   string
	Token string // a service token of the workspace

	projects map[string]string // name to id
}

// projectID is the id of one of the projects that startPrisma was told to make.
func (p examplePrisma) projectID(name string) string { return p.projects[name] }

// startGateway starts a server in front of the simulator that prints some headers of the
// requests it gets and goes by a service token of its own.
func (p examplePrisma) startGateway() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "X-Team"} {
			if value := r.Header.Get(name); value != "" {
				fmt.Fprintf(os.Stdout, "%s: %s\n", name, value)
			}
		}
		r.Header.Set("Authorization", "Bearer "+p.Token)
		shared.ServeHTTP(w, r)
	}))
}

// lossyTransport is a network that loses the answer to the first request.
type lossyTransport struct{ lost bool }

func (t *lossyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || t.lost {
		return response, err
	}
	t.lost = true
	var body bytes.Buffer
	_, err = io.Copy(&body, response.Body) // only once it was done is it lost
	return nil, errors.Join(err, response.Body.Close(), io.ErrUnexpectedEOF)
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
