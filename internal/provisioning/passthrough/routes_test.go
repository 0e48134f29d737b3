package passthrough_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

// TestEveryOperationIsDecided holds the table against the interface document: an
// operation that is new there must be decided, and one that is gone must go.
func TestEveryOperationIsDecided(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	check(t, json.Unmarshal(managementapi.Document(), &doc))
	var want, got []string
	for path, item := range doc.Paths {
		for method := range item {
			if method != "parameters" {
				want = append(want, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, d := range passthrough.Decisions() {
		got = append(got, d.Method+" "+d.Path)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-document +decided):\n%s", diff)
	}
	if len(got) != 118 {
		t.Errorf("%d operations are decided, want 118", len(got))
	}
}

// filled puts an id in the place of each parameter.
func filled(path string) string {
	var parts []string
	for i, segment := range strings.Split(path, "/") {
		if strings.HasPrefix(segment, "{") {
			segment = fmt.Sprintf("id_%d", i)
		}
		parts = append(parts, segment)
	}
	return strings.Join(parts, "/")
}

func TestEveryOperation(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	passed, refused := 0, 0
	for _, d := range passthrough.Decisions() {
		before := len(r.arrived())
		got := r.do(t, d.Method, filled(d.Path), nil, nil)
		all := r.arrived()
		if d.Refusal != "" {
			refused++
			if got.status != http.StatusForbidden || len(all) != before || !strings.Contains(got.body, d.Refusal) {
				t.Errorf("%s %s answered %d, and %d requests arrived; want 403 with the reason and none", d.Method, d.Path, got.status, len(all)-before)
			}
			continue
		}
		passed++
		if d.Path == "/v1/branches/{branchId}" && d.Method == http.MethodDelete {
			before++ // the look at what goes with it
		}
		if got.status != http.StatusOK || len(all) != before+1 {
			t.Errorf("%s %s answered %d: %s", d.Method, d.Path, got.status, got.body)
			continue
		}
		if last := all[before]; last.method != d.Method || last.uri != filled(d.Path) {
			t.Errorf("%s %s arrived as %s %s", d.Method, d.Path, last.method, last.uri)
		}
	}
	t.Logf("%d operations passed, %d refused", passed, refused)
	if refused != 9 {
		t.Errorf("%d operations were refused, want 9", refused)
	}
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	tests := map[string]struct{ path, allow string }{
		http.MethodPut:     {"/v1/projects", "GET, POST"},
		http.MethodHead:    {"/v1/projects/proj_1", "DELETE, GET, PATCH"},
		http.MethodOptions: {"/v1/me", "GET"},
		http.MethodTrace:   {"/v1/me", "GET"},
		http.MethodDelete:  {"/v1/projects/proj_1/transfer", "POST"},
		"PROPFIND":         {"/v1/regions", "GET"},
		"get":              {"/v1/regions", "GET"},
		"X-UNHEARD-OF":     {"/v1/databases/db_1/restore", "POST"},
	}
	for method, tc := range tests {
		got := r.do(t, method, tc.path, nil, nil)
		if got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != tc.allow {
			t.Errorf("%s %s answered %d with Allow %q, want 405 with %q", method, tc.path, got.status, got.header.Get("Allow"), tc.allow)
		}
	}
	if n := len(r.arrived()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// oddParts are spellings of a part of a path that some program may read as something
// else, or that no id has.
func oddParts() []string {
	return []string{
		"..", ".", "...", "....", "..%00", "%2e", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "%25252e", "%c0%ae%c0%ae",
		"%c0%af", "%e0%80%af", "%2f", "%2F", "%252f", "%5c", "%5C", "%255c", `\`, `..\`, "%00", "%01", "%0a", "%0d%0aX:%20y", "%7f", "%ff",
		"%80", "%ed%a0%80", "%f4%90%80%80", ";", ";a=b", "%3b", "..;", "%3f", "%3fa=b", "%23", "%20", "%09", "+%20", "%zz", "%", "%2", "%u002e",
		"\u2025", "%EF%BC%8F", "%EF%BC%8E%EF%BC%8E", "%E2%80%AE", "%C2%A0", "%7b", "%7B%7D", "%7c", "%22", "%3c", "%3e", "%5e", "%60", "%25",
		"a.", "a..", ".a", "%61", "%70roj_1", "a%2d", "a%5f", "a%7e", "a%2fb", "a/../b", "a/./b", "a%2f..%2fb", "http:%2f%2fevil.example", "",
		strings.Repeat("a", 257),
	}
}

// TestPathTricks: nothing of this reaches the upstream, on whatever route.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	tricks := []string{
		"/v1", "/v1/", "/v2/projects", "/", "", "/V1/projects", "/v1/Projects", "/v1/project", "/v1/projects/", "/v1//projects", "//v1/projects",
		"/v1/projects//", "/v1/projects/a/b", "/v1/projects.json", "/v1/projects/a/transfer/", "/v1/projects/a//transfer", "/v1/projects/a/Transfer",
		"/v1/projects/a/%74ransfer", "/v1/projects/a%2ftransfer", "/v1/projects/a/x/../transfer", "/v1/%70rojects", "/v1/projects/a/transfer%20",
		"/v1/workspaces/a/service-tokens%2f", "/v1/workspaces/a/service-tokens/", "/v1/workspaces/a/service%2dtokens", "/token", "/authorize",
		"/.well-known/oauth-authorization-server", "/_control/ledger", "/v1/_control/reset", "/../v1/projects", "/v1/../_control/reset",
		"/v1/me/../projects", "/v1/regions/..", "/%76%31/projects", "/v1%2fprojects", "/prisma/v1/projects", "/v1/projects/a@b/../../me",
		"/v1/projects/" + strings.Repeat("a/", 500), "/v1/projects/" + strings.Repeat("x", 4000),
	}
	for _, part := range oddParts() {
		tricks = append(tricks, "/v1/projects/"+part, "/v1/projects/"+part+"/databases", "/v1/"+part+"/projects", "/v1/databases/"+part+"/connections")
	}
	statuses := map[int]int{}
	for _, trick := range tricks {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			status := r.raw(t, method+" "+prefix+trick+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			statuses[status]++
			if status != http.StatusBadRequest && status != http.StatusNotFound {
				t.Errorf("%s %q answered %d", method, trick, status)
			}
		}
	}
	for _, all := range r.arrived() {
		t.Errorf("%s %s arrived", all.method, all.uri)
	}
	t.Logf("%d tricks with 3 methods each: %v", len(tricks), statuses)
}

// TestOtherHosts: whatever a request says about hosts, it goes to Prisma or nowhere.
func TestOtherHosts(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	path := prefix + "/v1/projects"
	refused := []string{
		"GET http://evil.example" + path + " HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
		"GET https://evil.example" + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"GET http://user:pass@a" + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"GET //evil.example" + path + "/../x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"GET " + path + "@evil.example HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
		"POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd",
		"POST " + path + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
	}
	for _, request := range refused {
		if status := r.raw(t, request); status < 400 || status > 501 {
			t.Errorf("%q answered %d", request, status)
		}
	}
	if all := r.arrived(); len(all) != 0 {
		t.Errorf("arrived: %+v", all)
	}
	// Go's server takes a length beside chunks and drops it, as RFC 9112 section 6.3 allows:
	// what arrives is one request without ambiguity.
	r.raw(t, "POST "+path+" HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"+
		"2\r\n{}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
	if all := r.arrived(); len(all) != 1 || all[0].body != "{}" || all[0].length > 2 || all[0].uri != "/v1/projects" {
		t.Errorf("arrived: %+v", all)
	}
	before := len(r.arrived())
	if status := r.raw(t, "GET "+path+" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"); status != http.StatusOK {
		t.Errorf("another Host header answered %d", status)
	}
	if all := r.arrived(); len(all) != before+1 || all[before].host == "evil.example" {
		t.Errorf("the client's Host header arrived: %+v", all)
	}
}

func TestIDsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for given, want := range map[string]string{
		"proj_1": "proj_1", "a:b": "a:b", "a%3Ab": "a:b", "a%3ab": "a:b", "a@b": "a@b", "a+b": "a+b", "a%2Bb": "a+b", "a=b&c": "a=b&c", "a%26b": "a&b",
		"a.b": "a.b", "a..b": "a..b", "~a": "~a", "a%40b": "a@b", "a%21": "a%21", "a!": "a%21", "v1": "v1", "transfer": "transfer",
	} {
		before := len(r.arrived())
		got := r.do(t, http.MethodGet, "/v1/projects/"+given, nil, nil)
		all := r.arrived()
		if got.status != http.StatusOK || len(all) != before+1 {
			t.Errorf("%s answered %d", given, got.status)
			continue
		}
		uri := all[before].uri
		decoded, err := url.PathUnescape(uri)
		wanted, _ := url.PathUnescape("/v1/projects/" + want)
		if err != nil || decoded != wanted {
			t.Errorf("%s arrived as %s, want %s", given, uri, want)
		}
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for given, want := range map[string]string{
		"": "", "?": "", "?limit=5": "limit=5", "?cursor=a%2Fb%3D&limit=1": "cursor=a%2Fb%3D&limit=1", "?logicalId=%C3%A4": "logicalId=%C3%A4",
		"?limit=": "limit=", "?limit": "limit=", "?cursor=a+b": "cursor=a+b",
	} {
		before := len(r.arrived())
		got := r.do(t, http.MethodGet, "/v1/projects"+given, nil, nil)
		all := r.arrived()
		if got.status != http.StatusOK || len(all) != before+1 {
			t.Errorf("%s answered %d", given, got.status)
			continue
		}
		if _, query, _ := strings.Cut(all[before].uri, "?"); query != want {
			t.Errorf("%s arrived as %q, want %q", given, query, want)
		}
	}
	before := len(r.arrived())
	for _, given := range []string{
		"?unknown=1", "?_method=DELETE", "?Limit=1", "?limit=1&limit=2", "?limit=%00", "?limit=%0a", "?limit=%ff", "?limit=%zz", "?limit=1;cursor=a",
		"?cursor=" + strings.Repeat("a", 5000), "?access_token=x", "?limit%00=1", "?=1", "?limit[]=1",
	} {
		if status := r.raw(t, "GET "+prefix+"/v1/projects"+given+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); status != http.StatusBadRequest {
			t.Errorf("%s answered %d", given, status)
		}
	}
	if n := len(r.arrived()); n != before {
		t.Errorf("%d refused queries arrived", n-before)
	}
}

// FuzzMatch: whatever the path, it matches nothing, or one documented operation that is
// not refused; what is sent then means the same when it is read again.
func FuzzMatch(f *testing.F) {
	known, err := passthrough.NewRoutes()
	if err != nil {
		f.Fatal(err)
	}
	decided := map[string]string{}
	for _, d := range passthrough.Decisions() {
		decided[d.Method+" "+d.Path] = d.Refusal
		f.Add(d.Method, d.Path)
		f.Add(d.Method, filled(d.Path))
	}
	for _, part := range oddParts() {
		f.Add("GET", "/v1/projects/"+part)
		f.Add("POST", "/v1/projects/"+part+"/transfer")
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		operation, canonical, id, err := known.Match(method, path)
		if err != nil {
			return
		}
		refusal, there := decided[operation]
		if !there || refusal != "" || !strings.HasPrefix(operation, method+" ") {
			t.Fatalf("%s %q matches %q", method, path, operation)
		}
		u, err := url.Parse("https://api.prisma.io" + canonical)
		if err != nil || u.Host != "api.prisma.io" || u.RawQuery != "" || u.Fragment != "" || u.EscapedPath() != canonical {
			t.Fatalf("%q is sent as %q: %v", path, canonical, err)
		}
		if again, twice, same, err := known.Match(method, canonical); err != nil || again != operation || twice != canonical || same != id {
			t.Fatalf("%q is sent as %q, which is %q: %v", path, canonical, again, err)
		}
		decoded, err := url.PathUnescape(canonical) // what a careless upstream routes by
		if err != nil || strings.Contains(decoded, "//") || strings.Contains(decoded, "..") && strings.Contains(decoded, "/..") ||
			strings.Count(decoded, "/") != strings.Count(operation, "/") || strings.ContainsAny(decoded, "\\;%?#\x00") {
			t.Fatalf("%q is sent as %q", path, canonical)
		}
	})
}
