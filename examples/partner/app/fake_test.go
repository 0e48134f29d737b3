package app_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/connect-prisma/server/examples/partner/app"
)

const apiKey = "cpk_canary_of_the_tests"

// answer is what a fake route says: data of a success, or a problem document.
type answer struct {
	status  int
	data    any
	problem map[string]any
	header  http.Header
}

func ok(data any) answer      { return answer{status: http.StatusOK, data: data} }
func created(data any) answer { return answer{status: http.StatusCreated, data: data} }

func problem(status int, kind, detail string) answer {
	return answer{status: status, problem: map[string]any{
		"type": "https://connect.example/problems/" + kind, "title": kind, "status": status,
		"detail": detail, "requestId": "req_test",
	}}
}

// fakeAPI is a Connect Prisma server with one connection, whose routes a test
// replaces by their pattern. It notes every request.
type fakeAPI struct {
	t      *testing.T
	URL    string
	routes map[string]func(r *http.Request, body map[string]any) answer

	mu   sync.Mutex
	seen []seen
}

// seen is one request as the fake got it.
type seen struct {
	Route          string // "POST /v1/connect-sessions"
	Query          url.Values
	Body           map[string]any
	IdempotencyKey string
}

func connection(id, userID, workspace, status string) map[string]any {
	return map[string]any{
		"id": id, "userId": userID, "workspace": map[string]any{"id": "wksp_1", "name": workspace},
		"status": status, "createdAt": "2030-01-02T03:04:05Z",
		"diagnosis": map[string]any{"code": "healthy", "message": "The connection works.", "action": "none"},
	}
}

// listed lists connections as the server does: the disconnected ones to whoever asks for
// them, and the others to everybody else.
func listed(all ...map[string]any) func(*http.Request, map[string]any) answer {
	return func(r *http.Request, _ map[string]any) answer {
		some := []any{}
		for _, one := range all {
			if (one["status"] == "disconnected") == (r.URL.Query().Get("status") == "disconnected") {
				some = append(some, one)
			}
		}
		return ok(some)
	}
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t}
	database := map[string]any{
		"id": "db_1", "name": "orders", "region": "eu-west-3", "status": "ready", "projectId": "proj_1", "isDefault": true,
	}
	f.routes = map[string]func(*http.Request, map[string]any) answer{
		"POST /v1/connect-sessions": func(*http.Request, map[string]any) answer {
			return created(map[string]any{"id": "cs_1", "status": "created", "url": f.URL + "/connect/one-time"})
		},
		"POST /v1/connect-sessions/{session}/complete": func(*http.Request, map[string]any) answer {
			return ok(connection("cnx_1", "ada", "Analytical Engines", "active"))
		},
		"GET /v1/connections": listed(connection("cnx_1", "ada", "Analytical Engines", "active")),
		"GET /v1/connections/{connection}": func(*http.Request, map[string]any) answer {
			return ok(connection("cnx_1", "ada", "Analytical Engines", "active"))
		},
		"DELETE /v1/connections/{connection}": func(*http.Request, map[string]any) answer {
			return ok(map[string]any{"id": "cnx_1", "status": "disconnected", "integrationRemoved": false})
		},
		"GET /v1/connections/{connection}/projects": func(*http.Request, map[string]any) answer {
			return ok([]any{map[string]any{"id": "proj_1", "name": "shop", "region": "eu-west-3"}})
		},
		"GET /v1/connections/{connection}/databases": func(*http.Request, map[string]any) answer {
			return ok([]any{database})
		},
		"POST /v1/connections/{connection}/databases": func(_ *http.Request, body map[string]any) answer {
			return created(map[string]any{
				"id": "db_2", "name": body["name"], "region": body["region"], "status": "ready", "projectId": "proj_2",
				"isDefault": true, "credentials": map[string]any{"id": "con_2", "connectionString": connectionString},
			})
		},
		"DELETE /v1/connections/{connection}/databases/{database}": func(*http.Request, map[string]any) answer {
			return ok(map[string]any{"id": "db_1"})
		},
		"POST /v1/connections/{connection}/databases/{database}/credentials": func(*http.Request, map[string]any) answer {
			return created(map[string]any{"id": "con_3", "name": "x", "connectionString": connectionString})
		},
		"GET /v1/regions": func(*http.Request, map[string]any) answer {
			return ok([]any{
				map[string]any{"id": "us-east-1", "name": "US East"}, map[string]any{"id": "eu-west-3", "name": "Europe (Paris)"},
			})
		},
	}
	mux := http.NewServeMux()
	for pattern := range f.routes {
		mux.HandleFunc(pattern, f.serve)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	f.URL = server.URL
	return f
}

// connectionString has what HTML and a shell would trip over.
const connectionString = "postgres://u&1:p%27ss@db.example:5432/db_2?sslmode=require&pool=1"

func (f *fakeAPI) serve(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("read the request: %v", err)
	}
	var body map[string]any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &body); err != nil {
			f.t.Errorf("%s: body %q: %v", r.Pattern, raw, err)
		}
	}
	if got := r.Header.Get("Authorization"); got != "Bearer "+apiKey {
		f.t.Errorf("%s: Authorization = %q", r.Pattern, got)
	}
	f.mu.Lock()
	f.seen = append(f.seen, seen{
		Route: r.Method + " " + r.URL.Path, Query: r.URL.Query(), Body: body, IdempotencyKey: r.Header.Get("Idempotency-Key"),
	})
	f.mu.Unlock()

	a := f.routes[r.Pattern](r, body)
	maps.Copy(w.Header(), a.header)
	var out any = map[string]any{"data": a.data, "pagination": map[string]any{"nextCursor": nil, "hasMore": false}}
	media := "application/json"
	if a.problem != nil {
		out, media = a.problem, "application/problem+json"
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(a.status)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		f.t.Errorf("write the answer: %v", err)
	}
}

// calls returns the requests that a route got, such as "POST /v1/connect-sessions".
func (f *fakeAPI) calls(route string) []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.seen), func(s seen) bool { return s.Route != route })
}

// partner is the app under test, served over TLS so that its Secure cookie works.
type partner struct {
	t   *testing.T
	api *fakeAPI
	srv *httptest.Server
	log *syncBuffer
}

func newPartner(t *testing.T) *partner {
	t.Helper()
	p := &partner{t: t, api: newFakeAPI(t), log: &syncBuffer{}}
	p.srv = httptest.NewUnstartedServer(nil)
	handler, err := app.New(app.Config{
		ConnectURL: p.api.URL, APIKey: apiKey, PublicURL: "https://" + p.srv.Listener.Addr().String(),
		SessionKey: bytes.Repeat([]byte{7}, 32), Logger: slog.New(slog.NewTextHandler(p.log, nil)),
	})
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	p.srv.Config.Handler = handler
	p.srv.StartTLS()
	t.Cleanup(p.srv.Close)
	return p
}

// syncBuffer is a log that many goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// browser is one browser with its cookies; it follows no redirect by itself.
type browser struct {
	p      *partner
	client *http.Client
}

// browser opens a fresh browser.
func (p *partner) browser() *browser {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	client := *p.srv.Client()
	client.Jar = jar
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{p: p, client: &client}
}

// signedIn opens a browser in which that user is signed in.
func (p *partner) signedIn(user string) *browser {
	p.t.Helper()
	b := p.browser()
	b.post("/sign-in", "user", user).redirects("/")
	return b
}

// page is an answer of the app.
type page struct {
	*goquery.Document

	t        *testing.T
	status   int
	header   http.Header
	location string
	raw      string
}

func (b *browser) get(path string) page {
	b.p.t.Helper()
	req, err := http.NewRequestWithContext(b.p.t.Context(), http.MethodGet, b.p.srv.URL+path, nil)
	if err != nil {
		b.p.t.Fatal(err)
	}
	return b.send(req)
}

// post sends a form of name, value, name, value, ….
func (b *browser) post(path string, fields ...string) page {
	b.p.t.Helper()
	return b.send(b.form(path, fields...))
}

func (b *browser) form(path string, fields ...string) *http.Request {
	b.p.t.Helper()
	form := url.Values{}
	for pair := range slices.Chunk(fields, 2) {
		form.Set(pair[0], pair[1])
	}
	req, err := http.NewRequestWithContext(
		b.p.t.Context(), http.MethodPost, b.p.srv.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return req
}

func (b *browser) send(req *http.Request) page {
	b.p.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.p.t.Fatal(err)
	}
	doc, err := goquery.NewDocumentFromReader(bytes.NewReader(raw))
	if err != nil {
		b.p.t.Fatal(err)
	}
	return page{
		Document: doc, t: b.p.t, status: resp.StatusCode, header: resp.Header,
		location: resp.Header.Get("Location"), raw: string(raw),
	}
}

// redirects fails the test unless the answer is a 303 to that place.
func (p page) redirects(to string) {
	p.t.Helper()
	if p.status != http.StatusSeeOther || p.location != to {
		p.t.Fatalf("got %d to %q, want 303 to %q\n%s", p.status, p.location, to, p.text())
	}
}

// says fails the test unless the answer has that status and all the texts.
func (p page) says(status int, texts ...string) {
	p.t.Helper()
	if p.status != status {
		p.t.Errorf("status = %d, want %d\n%s", p.status, status, p.text())
	}
	for _, text := range texts {
		if !strings.Contains(p.text(), text) {
			p.t.Errorf("page lacks %q:\n%s", text, p.text())
		}
	}
}

// text is what a reader sees of the page's main part.
func (p page) text() string { return strings.Join(strings.Fields(p.Find("main").Text()), " ") }
