package httpapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/httpapi"
)

// raw sends bytes and returns the status of the answer, 0 when the connection was
// closed without one.
func raw(t *testing.T, w *apitest.World, request string) int {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", w.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(w.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return 0 // hung up on us in the middle of it
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestOddPathsReachNoRoute(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	one := "/v1/connections/" + connection.ID
	odd := []string{
		"//v1/connections", "/v1//connections", one + "//projects", "/v1/../v1/connections", "/v1/%2e%2e/v1/connections",
		"/v1/%2e/connections", "/v1/x/../connections", "/v1%2fconnections", "/v1/connections%2f" + connection.ID, one + "%2fprojects", one + "%00",
		one + ";x=1", one + "%3bx", "/v1;x/connections", one + "%ff", one + "%c0%af", one + "%0a", one + "%0d%0aX-Injected:%201", one + "%7f",
		one + "%5cprojects", `/v1\connections`, one + "/..", one + "/%2E%2E/", "/connect/..%2fv1", "/connect/%2e%2e/v1/connections",
		"/static/../v1/connections", "/static/..%2f..%2fetc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", one + "/projects/..;/databases",
	}
	unknown := []string{
		"/v1", "/v1/", "/v1/./connections", "/v1/nothing", "/v1/connection", one + "/", one + "/nothing", one + "/projects/", "/V1/connections", "/v1/Connections",
		"/v2/connections", "/v1/connections.json", "/nothing", "/.git/config", "/.env", "/metrics", "/debug/pprof/", "/v1/connections ", "/connect", "/connect/",
		"/connect/a/b", "/oauth", "/oauth/callback/", "/oauth/callback/x", "/problems/nothing", "/static/", "/static/none.css", "/index.html",
		"/v1/connections/" + strings.Repeat("x", 4000), "/v1/connections/%E2%80%AE",
	}
	auth := "Authorization: Bearer " + w.Tenant.Key + "\r\n"
	refused := 0
	for i, path := range slices.Concat(odd, unknown) {
		path = strings.ReplaceAll(path, " ", "%20")
		status := raw(t, w, "GET "+path+" HTTP/1.1\r\nHost: localhost:8080\r\n"+auth+"Connection: close\r\n\r\n")
		if i < len(odd) && status != http.StatusBadRequest || i >= len(odd) && status != http.StatusNotFound {
			t.Errorf("%s answered %d", path, status)
			continue
		}
		refused++
	}
	t.Logf("%d odd and %d unknown paths: %d refused", len(odd), len(unknown), refused)
}

func TestRequestsThatHTTPItselfForbids(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	auth := "Authorization: Bearer " + w.Tenant.Key + "\r\n"
	head := "Host: localhost:8080\r\n" + auth
	post := "POST /v1/connect-sessions HTTP/1.1\r\n" + head + "Content-Type: application/json\r\n"
	ofSize := func(bytes int) string {
		line := "GET /v1/connections HTTP/1.1\r\n" + head + "Connection: close\r\nX-Long: "
		return line + strings.Repeat("x", bytes-len(line)-4) + "\r\n\r\n"
	}
	tests := map[string]struct {
		request string
		status  []int
	}{
		"headers of 32 KiB":     {ofSize(httpapi.MaxHeader), []int{200}},
		"and one byte more":     {ofSize(httpapi.MaxHeader + 1), []int{431}},
		"headers above 32 KiB":  {ofSize(40 << 10), []int{431, 0}},
		"path above 32 KiB":     {"GET /v1/" + strings.Repeat("x", 40<<10) + " HTTP/1.1\r\n" + head + "\r\n", []int{431, 0}},
		"NUL in the path":       {"GET /v1/conn\x00ections HTTP/1.1\r\n" + head + "\r\n", []int{400}},
		"NUL in a header":       {"GET /v1/connections HTTP/1.1\r\n" + head + "X-A: a\x00b\r\n\r\n", []int{400}},
		"no host":               {"GET /v1/connections HTTP/1.1\r\n" + auth + "\r\n", []int{400}},
		"two hosts":             {"GET /v1/connections HTTP/1.1\r\nHost: a\r\n" + head + "\r\n", []int{400}},
		"two lengths":           {post + "Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}xxx", []int{400}},
		"a length below 0":      {post + "Content-Length: -1\r\n\r\n", []int{400}},
		"a length in hex":       {post + "Content-Length: 0x2\r\n\r\n{}", []int{400}},
		"an unknown coding":     {post + "Transfer-Encoding: gzip\r\n\r\n{}", []int{501, 400}},
		"a broken chunk":        {post + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", []int{400}},
		"body cut":              {post + "Content-Length: 70000\r\nConnection: close\r\n\r\n{" + strings.Repeat(" ", 65<<10), []int{413}},
		"a space in the header": {"GET /v1/connections HTTP/1.1\r\n" + head + "X-A : b\r\n\r\n", []int{400}},
		"a folded header":       {"GET /v1/connections HTTP/1.1\r\n" + head + " folded\r\n\r\n", []int{400, 401}},
		"not HTTP":              {"hello\r\n\r\n", []int{400}},
		"HTTP/3.7":              {"GET /v1/connections HTTP/3.7\r\n" + head + "\r\n", []int{505, 400}},
		"absolute form":         {"GET http://evil.example/v1/nothing HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", []int{404}},
		"CONNECT":               {"CONNECT evil.example:443 HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", []int{404, 405, 400}},
		"asterisk":              {"OPTIONS * HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", []int{200, 400, 404, 405}},
	}
	for name, tc := range tests {
		if got := raw(t, w, tc.request); !slices.Contains(tc.status, got) {
			t.Errorf("%s: %d, want one of %v", name, got, tc.status)
		}
	}
	if n := apitest.Query[int](t, w, "SELECT count(*)::int FROM connect_sessions"); n != 0 {
		t.Errorf("%d sessions were made", n)
	}
	t.Logf("%d malformed requests", len(tests))
}

// A request with a length and a coding is read by the coding, whether or not that makes
// sense, and what follows it on the connection is never taken for a request. It can't be
// refused: net/http drops the length before a handler sees it.
func TestLengthAndCoding(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	head := "Host: localhost:8080\r\nAuthorization: Bearer " + w.Tenant.Key + "\r\n"
	hidden := "DELETE /v1/connections/" + connection.ID + " HTTP/1.1\r\n" + head + "\r\n"
	const session = `{"userId":"ada","returnUrl":"` + apitest.ReturnURL + `"}`
	whole := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(session), session)
	for name, tc := range map[string]struct {
		path, body, lengths string
		status              int
	}{
		"nothing in the chunks":    {"/v1/connect-sessions", "0\r\n\r\n", strconv.Itoa(5 + len(hidden)), http.StatusBadRequest},
		"a good body":              {"/v1/connect-sessions", whole, strconv.Itoa(len(whole) + len(hidden)), http.StatusCreated},
		"a length of 0":            {"/v1/connect-sessions", whole, "0", http.StatusCreated},
		"two different lengths":    {"/v1/connect-sessions", whole, "0\r\nContent-Length: 7", http.StatusBadRequest},
		"no number":                {"/v1/connect-sessions", whole, "x", http.StatusBadRequest},
		"through the pass-through": {"/v1/connections/" + connection.ID + "/prisma/v1/projects/p/transfer", "0\r\n\r\n", "5", http.StatusForbidden},
	} {
		var dialer net.Dialer
		conn, err := dialer.DialContext(t.Context(), "tcp", w.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(w.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n%sContent-Type: application/json\r\nContent-Length: %s\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n%s%s", tc.path, head, tc.lengths, tc.body, hidden); err != nil {
			t.Fatal(err)
		}
		answers, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%s: the connection was not closed: %v", name, err)
		}
		if n := bytes.Count(answers, []byte("HTTP/1.1 ")); n != 1 || !bytes.HasPrefix(answers, fmt.Appendf(nil, "HTTP/1.1 %d ", tc.status)) ||
			!bytes.Contains(answers, []byte("Connection: close\r\n")) {
			t.Errorf("%s: %d answers: %.40q", name, n, answers)
		}
	}
	if got := w.GetConnection(t, w.Tenant, connection.ID).Status; got != "active" {
		t.Errorf("the hidden request did its work: %s", got)
	}
}

// TestWrongMethodsAreTold tries every method on every path that the router knows.
func TestWrongMethodsAreTold(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	methods := map[string][]string{}
	for _, r := range apiRoutes(t, w) {
		if !r.passesThrough() { // which methods there are depends on Prisma's path
			methods[r.path] = append(methods[r.path], r.method)
		}
	}
	methods["/oauth/callback"] = []string{http.MethodGet}
	methods["/connect/:token"] = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	for _, path := range []string{"/", "/robots.txt", "/docs", "/openapi.json", "/problems", "/problems/not-found", "/healthz", "/readyz"} {
		methods[path] = []string{http.MethodGet, http.MethodHead}
	}
	tried := 0
	for path, allowed := range methods {
		filled, _ := route{path: path}.fill(map[string]string{
			"sessionId": "cs_x", "connectionId": "cnx_x", "databaseId": "db_x", "projectId": "proj_x", "credentialsId": "con_x", "token": "x",
		})
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get", "BREW"} {
			if slices.Contains(allowed, method) {
				continue
			}
			tried++
			answer := w.Call(t, w.Tenant.Key, method, filled, nil, http.Header{"Origin": {apitest.PublicURL}})
			named := strings.Split(strings.ReplaceAll(answer.Header.Get("Allow"), " ", ""), ",")
			for _, one := range allowed {
				if answer.Status != http.StatusMethodNotAllowed || !slices.Contains(named, one) {
					t.Errorf("%s %s: %d, Allow %v, want %v", method, path, answer.Status, named, allowed)
				}
			}
		}
	}
	t.Logf("%d wrong methods refused", tried)
}

func TestIdsAndCursors(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	for i := range 5 {
		w.Connect(t, w.Tenant, fmt.Sprintf("user%d", i%2), workspaceA)
		w.Connect(t, w.Tenant, fmt.Sprintf("user%d", i), workspaceB)
	}
	other := w.NewTenant(t, "Other", nil)
	list := func(key, query string) apitest.Answer {
		return w.Call(t, key, http.MethodGet, "/v1/connections?"+query, nil)
	}
	type page struct {
		Data       []apitest.Connection
		Pagination struct {
			NextCursor *string
			HasMore    bool
		}
	}
	seen, cursor, pages := map[string]bool{}, "", 0
	for {
		query := "limit=2"
		if cursor != "" {
			query += "&cursor=" + cursor
		}
		var p page
		list(w.Tenant.Key, query).JSON(t, &p)
		pages++
		for _, c := range p.Data {
			if seen[c.ID] {
				t.Errorf("%s comes twice", c.ID)
			}
			seen[c.ID] = true
		}
		if p.Pagination.NextCursor == nil || !p.Pagination.HasMore {
			break
		}
		cursor = *p.Pagination.NextCursor
	}
	if len(seen) != 7 || pages != 4 {
		t.Errorf("%d connections on %d pages", len(seen), pages)
	}
	edited := []byte(cursor)
	edited[3] ^= 1
	bad := map[string]apitest.Answer{
		"edited":          list(w.Tenant.Key, "cursor="+string(edited)),
		"cut":             list(w.Tenant.Key, "cursor="+cursor[:len(cursor)-1]),
		"longer":          list(w.Tenant.Key, "cursor="+cursor+"A"),
		"padded":          list(w.Tenant.Key, "cursor="+cursor+"%3D"),
		"another filter":  list(w.Tenant.Key, "userId=user1&cursor="+cursor),
		"another status":  list(w.Tenant.Key, "status=active&cursor="+cursor),
		"another tenant":  list(other.Key, "cursor="+cursor),
		"an id":           list(w.Tenant.Key, "cursor="+slices.Collect(maps.Keys(seen))[0]),
		"SQL":             list(w.Tenant.Key, "cursor=%27%20OR%201=1--"+marker),
		"10 KB":           list(w.Tenant.Key, "cursor="+strings.Repeat("A", 10<<10)),
		"limit 0":         list(w.Tenant.Key, "limit=0"),
		"limit -1":        list(w.Tenant.Key, "limit=-1"),
		"limit 101":       list(w.Tenant.Key, "limit=101"),
		"limit 1e9":       list(w.Tenant.Key, "limit=1e9"),
		"limit 10^9":      list(w.Tenant.Key, "limit=1000000000"),
		"limit 2^64":      list(w.Tenant.Key, "limit=18446744073709551616"),
		"limit empty":     list(w.Tenant.Key, "limit="),
		"limit +1":        list(w.Tenant.Key, "limit=%2B1"),
		"limit text":      list(w.Tenant.Key, "limit="+marker),
		"unknown status":  list(w.Tenant.Key, "status="+marker),
		"empty user":      list(w.Tenant.Key, "userId="),
		"user of 256":     list(w.Tenant.Key, "userId="+strings.Repeat("u", 256)),
		"user with NUL":   list(w.Tenant.Key, "userId=%00"+marker),
		"user, bad UTF-8": list(w.Tenant.Key, "userId=%ff"+marker),
		"100 × one key":   list(w.Tenant.Key, strings.TrimSuffix(strings.Repeat("userId=ada&", 100), "&")),
		"semicolons":      list(w.Tenant.Key, "limit=1;userId=ada"),
	}
	for name, answer := range bad {
		if answer.Status != http.StatusBadRequest || bytes.Contains(answer.Body, []byte(marker)) {
			t.Errorf("%s: %d %s", name, answer.Status, answer.Body)
		}
	}
	w.Connect(t, w.Tenant, "ada, bob & carol=+%", workspaceA)
	odd := apitest.Data[[]apitest.Connection](t, list(w.Tenant.Key, "userId="+url.QueryEscape("ada, bob & carol=+%")))
	if len(odd) != 1 || odd[0].UserID != "ada, bob & carol=+%" {
		t.Errorf("an odd filter finds %d connections", len(odd))
	}
	id := slices.Collect(maps.Keys(seen))[0]
	for _, odd := range []string{strings.ToUpper(id), id[:len(id)-1], id + "a", id[:len(id)-1] + "1", "cnx_", "cs_" + id[4:], id[4:], "%20" + id, id + "%20", "0", "null", "*", "%27"} {
		if answer := w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections/"+odd, nil); answer.Status != http.StatusNotFound {
			t.Errorf("id %s: %d", odd, answer.Status)
		}
	}
	t.Logf("%d bad cursors, limits and filters refused", len(bad))
}
