package managementapi_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// TestRaw: what was given is sent, below the base URL, with the client's token, and the
// answer is handed out whatever it is.
func TestRaw(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.RequestURI != "/base/v1/projects/a%21b?limit=1" || r.Method != http.MethodPatch || string(body) != "{}" ||
			r.Header.Get("Authorization") != "Bearer tok" || r.Header.Get("Idempotency-Key") != "" || r.ContentLength != 2 ||
			r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("Accept") != "text/plain" {
			t.Errorf("arrived: %s %s %v %q", r.Method, r.RequestURI, r.Header, body)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	t.Cleanup(server.Close)
	client := newClient(t, managementapi.Config{BaseURL: server.URL + "/base", Token: "tok"})
	resp, err := client.Raw(t.Context(), managementapi.RawRequest{
		Method: http.MethodPatch, Path: "/v1/projects/a%21b", Query: "limit=1", Body: strings.NewReader("{}"), Length: 2,
		Header: http.Header{"Accept": {"text/plain"}, "Authorization": {"Bearer other"}, "Idempotency-Key": {"x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("status %d, want the redirect itself", resp.StatusCode)
	}
}

func TestRawRefusal(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":"authentication-failed","message":"no"}}`)
	}))
	t.Cleanup(server.Close)
	client := newClient(t, managementapi.Config{BaseURL: server.URL, Token: "tok"})
	resp, err := client.Raw(t.Context(), managementapi.RawRequest{Method: http.MethodGet, Path: "/v1/me"})
	if resp != nil {
		_ = resp.Body.Close()
	}
	if refusal, ok := errors.AsType[*managementapi.APIError](err); !ok || refusal.Status != http.StatusUnauthorized || refusal.Code != "authentication-failed" {
		t.Errorf("Raw() = %v, want the *APIError of the 401", err)
	}
}

// TestRawSendsOnce: as for the other calls, only reads are sent again.
func TestRawSendsOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		raw  managementapi.RawRequest
		want int32
	}{
		"POST without a body":       {managementapi.RawRequest{Method: http.MethodPost}, 1},
		"POST with a body":          {managementapi.RawRequest{Method: http.MethodPost, Body: strings.NewReader("{}"), Length: 2}, 1},
		"POST of an unknown length": {managementapi.RawRequest{Method: http.MethodPost, Body: io.MultiReader(strings.NewReader("{}")), Length: -1}, 1},
		"DELETE":                    {managementapi.RawRequest{Method: http.MethodDelete}, 1},
		"GET":                       {managementapi.RawRequest{Method: http.MethodGet}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, transport, requests := resetting(t)
			client := newClient(t, managementapi.Config{
				BaseURL: url, Token: "tok", Transport: transport, Retry: managementapi.RetrySettings{From: 1, To: 1},
			})
			tc.raw.Path = "/v1/projects"
			resp, err := client.Raw(t.Context(), tc.raw)
			if resp != nil {
				_ = resp.Body.Close()
			}
			if failure, ok := errors.AsType[*managementapi.FetchError](err); !ok || !failure.Sent {
				t.Errorf("error = %v, want a *FetchError that was sent", err)
			}
			if got := requests.Load(); got != tc.want {
				t.Errorf("%d requests arrived, want %d", got, tc.want)
			}
		})
	}
}
