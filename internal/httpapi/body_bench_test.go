package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/httpapi"
)

// BenchmarkHostileBodies compares what it takes to refuse bodies that are made to be
// expensive with what it takes to accept a plain one of their size ("/plain"):
//
//	go test -run '^$' -bench HostileBodies ./internal/httpapi
func BenchmarkHostileBodies(b *testing.B) {
	const size = 64 << 10
	repeat := func(part string) string { return strings.Repeat(part, (size-100)/len(part)) }
	numbered := func(format string) string {
		var all strings.Builder
		for i := 0; all.Len() < size-700; i++ {
			fmt.Fprintf(&all, format, i)
		}
		return strings.TrimSuffix(all.String(), ",")
	}
	read, err := httpapi.BodyReader("createConnectSession")
	if err != nil {
		b.Fatal(err)
	}
	metadata, err := httpapi.BodyReader("updateConnection")
	if err != nil {
		b.Fatal(err)
	}
	var plain float64 // nanoseconds
	for _, tc := range []struct {
		name, body string
		read       func(*http.Request) error
		accepted   bool
	}{
		{"plain, 64 KiB with white space", `{"userId":"ada"` + repeat(" ") + "}", read, true}, // the first: it is what others are compared with
		{"plain, 60 bytes", `{"userId":"ada","returnUrl":"https://acme.example/callback"}`, read, true},
		{"depth", repeat(`{"a":`), read, false},
		{"depth, closed", `{"a":` + strings.Repeat("[", size/2-4) + strings.Repeat("]", size/2-4) + "}", read, false},
		{"one name again and again", "{" + repeat(`"a":1,`) + `"a":1}`, read, false},
		{"unknown names", "{" + numbered(`"f%d":1,`) + "}", read, false},
		{"unknown names that can't be shown", "{" + numbered(`"<%d>":1,`) + "}", read, false},
		{"unknown names with objects", "{" + numbered(`"f%d":{},`) + "}", read, false},
		{"metadata of the wrong type", `{"metadata":{` + numbered(`"f%d":1,`) + "}}", metadata, false},
		{"metadata that is too long", `{"metadata":{` + numbered(`"f%d":"`+strings.Repeat("x", 501)+`",`) + "}}", metadata, false},
		{"metadata of objects", `{"metadata":{` + numbered(`"f%d":{},`) + "}}", metadata, false},
		{"a long array", `{"userId":[` + repeat("1,") + "1]}", read, false},
		{"a long number", `{"userId":"ada","expiresInSeconds":` + repeat("9") + "}", read, false},
		{"a long exponent", `{"userId":"ada","expiresInSeconds":1e` + repeat("9") + "}", read, false},
		{"escapes", `{"userId":"` + repeat(`\u0061`) + `"}`, read, false},
	} {
		b.Run(tc.name, func(b *testing.B) {
			if len(tc.body) > size {
				b.Fatalf("it has %d bytes", len(tc.body))
			}
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/", strings.NewReader(tc.body))
				r.Header.Set("Content-Type", "application/json")
				if err := tc.read(r); (err == nil) != tc.accepted {
					b.Fatal(err)
				}
			}
			took := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if plain == 0 {
				plain = took
			}
			b.ReportMetric(took/plain, "/plain")
		})
	}
}
