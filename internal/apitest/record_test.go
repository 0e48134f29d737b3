package apitest_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

// TestTheRecordFindsWhatItLooksFor breaks each promise once: a judge that never
// complains proves nothing.
func TestTheRecordFindsWhatItLooksFor(t *testing.T) {
	t.Parallel()
	const secret = "a-secret-that-nobody-may-see"
	good := http.Header{
		"X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
		"Content-Security-Policy": {"default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"},
		"Content-Type":            {"text/html; charset=utf-8"}, "X-Request-Id": {"r"},
	}
	const known = "/v1/regions"
	tests := map[string]struct {
		path, header, value, body, finding string
		status                             int
	}{
		"a status that is not listed": {path: known, header: "Content-Type", value: "application/json", body: "{}", status: 203, finding: "a status that"},
		"a type that is not listed":   {path: known, body: "{}", finding: "a body of the type"},
		"a field that is not listed": {
			path: known, header: "Content-Type", value: "application/json", finding: "breaks the contract",
			body: `{"data":[{"id":"x","name":"y","flag":"z"}],"pagination":{"nextCursor":null,"hasMore":false}}`,
		},
		"a null for a list": {
			path: known, header: "Content-Type", value: "application/json", finding: "breaks the contract",
			body: `{"data":null,"pagination":{"nextCursor":null,"hasMore":false}}`,
		},
		"a field that is missing": {path: known, header: "Content-Type", value: "application/json", finding: "breaks the contract", body: `{"data":[]}`},
		"a problem that is not listed": {
			path: known, header: "Content-Type", value: "application/problem+json", status: 429, finding: "does not list",
			body: `{"type":"` + apitest.PublicURL + `/problems/expired","title":"Too late","status":429,"requestId":"r"}`,
		},
		"nothing":           {},
		"a secret in page":  {body: "<p>" + secret, finding: "shows a secret"},
		"sniffing":          {header: "X-Content-Type-Options", finding: "no nosniff"},
		"caching":           {header: "Cache-Control", value: "max-age=5", finding: "may be cached"},
		"referrers":         {header: "Referrer-Policy", value: "unsafe-url", finding: "referrer policy"},
		"no policy":         {header: "Content-Security-Policy", finding: "content security policy"},
		"an open redirect":  {header: "Location", value: "https://partner.example.evil/connected", finding: "a Location outside"},
		"a redirect's user": {header: "Location", value: "https://x@partner.example/connected", finding: "a Location outside"},
		"a failure":         {status: 500, finding: "answered 500"},
		"no problem":        {path: "/v1/x", header: "Content-Type", value: "application/json", status: 400, body: "{}", finding: "not a problem"},
		"half a problem": {
			path: "/v1/x", header: "Content-Type", value: "application/problem+json", status: 400, finding: "without all its parts",
			body: `{"type":"` + apitest.PublicURL + `/problems/conflict","title":"Conflict","status":409,"requestId":"r"}`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			w.Secret("planted", secret)
			handler := w.Watch(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				maps.Copy(rw.Header(), good)
				if tc.header != "" {
					rw.Header().Del(tc.header)
				}
				if tc.value != "" {
					rw.Header().Set(tc.header, tc.value)
				}
				rw.WriteHeader(max(tc.status, 200))
				_, _ = rw.Write([]byte(tc.body))
			}))
			path := tc.path
			if path == "" {
				path = "/connect/x"
			}
			handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			found := w.Findings(true)
			if (tc.finding == "") != (len(found) == 0) {
				t.Errorf("found %v", found)
			}
			for finding := range found {
				if !strings.Contains(finding, tc.finding) {
					t.Errorf("found %s, want %s", finding, tc.finding)
				}
			}
		})
	}
}

func TestTheRecordFindsSecretsInTheLog(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Secret("planted", "a+secret/that=is&escaped")
	w.Log("state=a%2Bsecret%2Fthat%3Dis%26escaped")
	if found := w.Findings(true); len(found) != 1 {
		t.Errorf("found %v", found)
	}
}
