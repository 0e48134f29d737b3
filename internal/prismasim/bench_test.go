package prismasim_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// BenchmarkRead is GET /v1/projects/{id}, the handler alone, from all cores.
func BenchmarkRead(b *testing.B) {
	sim, project := benched(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/projects/"+project, nil)
			request.Header.Set("Authorization", "Bearer "+prismasimtest.ServiceToken)
			recorder := httptest.NewRecorder()
			sim.ServeHTTP(recorder, request)
			if recorder.Code != http.StatusOK {
				b.Fatalf("status = %d", recorder.Code)
			}
		}
	})
}

// BenchmarkReadOverHTTP is the same over connections that are kept alive.
func BenchmarkReadOverHTTP(b *testing.B) {
	sim, project := benched(b)
	server := httptest.NewServer(sim)
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, server.URL+"/v1/projects/"+project, nil)
			if err != nil {
				b.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+prismasimtest.ServiceToken)
			response, err := transport.RoundTrip(request)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	})
}

// BenchmarkRefresh is one chain of refreshes, each signing an access token and
// written to a journal.
func BenchmarkRefresh(b *testing.B) {
	sim := prismasimtest.Start(b, func(c *prismasim.Config) { c.StateDir = b.TempDir() })
	tokens := sim.Connect(b, prismasimtest.WorkspaceA)
	b.ResetTimer()
	for b.Loop() {
		fields := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {tokens.Refresh},
			"client_id": {prismasimtest.ClientID}, "client_secret": {prismasimtest.ClientSecret},
		}
		request := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/token", strings.NewReader(fields.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		recorder := httptest.NewRecorder()
		sim.ServeHTTP(recorder, request)
		tokens = prismasimtest.ReadTokens(b, recorder.Body.Bytes())
	}
}

// benched is a simulator without validation of its answers, and a project in it.
func benched(b *testing.B) (*prismasim.Simulator, string) {
	b.Helper()
	sim, err := prismasim.New(b.Context(), prismasim.Config{
		URL: "http://localhost:1", DatabaseURL: pgtest.OpenEmpty(b).OwnerURL, Seed: prismasimtest.Seed(),
	})
	if err != nil {
		b.Fatal(err)
	}
	request := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/projects", strings.NewReader(`{"createDatabase":false}`))
	request.Header.Set("Authorization", "Bearer "+prismasimtest.ServiceToken)
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	sim.ServeHTTP(recorder, request)
	_, rest, _ := strings.Cut(recorder.Body.String(), `"id":"`)
	project, _, _ := strings.Cut(rest, `"`)
	b.Cleanup(func() { _ = sim.Close(b.Context()) })
	b.ResetTimer()
	return sim, project
}
