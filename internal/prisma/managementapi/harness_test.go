package managementapi_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim/apidoc"
)

// operation is one operation of the interface document with the Go name that the
// overlay gives it.
type operation struct {
	name         string // of the method of Client
	method, path string
	spec         *openapi3.Operation
}

// readOperations reads the document and the overlay once.
var readOperations = sync.OnceValues(func() ([]operation, error) {
	doc, err := apidoc.Load()
	if err != nil {
		return nil, fmt.Errorf("load the document: %w", err)
	}
	names, err := overlayNames()
	if err != nil {
		return nil, err
	}
	var all []operation
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, spec := range doc.Paths.Value(path).Operations() {
			all = append(all, operation{name: names[method+" "+path], method: method, path: path, spec: spec})
		}
	}
	return all, nil
})

// overlayNames returns the Go name of each "METHOD /path".
func overlayNames() (map[string]string, error) {
	text, err := os.ReadFile("prisma-management-api.overlay.json")
	if err != nil {
		return nil, fmt.Errorf("read the overlay: %w", err)
	}
	var overlay struct {
		Actions []struct {
			Target string         `json:"target"`
			Update map[string]any `json:"update"`
		} `json:"actions"`
	}
	if err := json.Unmarshal(text, &overlay); err != nil {
		return nil, fmt.Errorf("parse the overlay: %w", err)
	}
	names := map[string]string{}
	target := regexp.MustCompile(`^\$\.paths\['([^']+)'\]\.([a-z]+)$`)
	for _, action := range overlay.Actions {
		if at := target.FindStringSubmatch(action.Target); at != nil {
			if name, ok := action.Update["operationId"].(string); ok {
				names[strings.ToUpper(at[2])+" "+at[1]] = name
			}
		}
	}
	return names, nil
}

// operations returns every operation of the document.
func operations(tb testing.TB) []operation {
	tb.Helper()
	all, err := readOperations()
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// eachOperation runs check in a parallel subtest for every operation.
func eachOperation(t *testing.T, check func(t *testing.T, op operation)) {
	t.Helper()
	for _, op := range operations(t) {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			check(t, op)
		})
	}
}

// pages reports whether the method returns a Page.
func (op operation) pages(tb testing.TB) bool {
	tb.Helper()
	method, ok := reflect.TypeFor[*managementapi.Client]().MethodByName(op.name)
	if !ok {
		tb.Fatalf("Client has no method %q", op.name)
	}
	return strings.HasPrefix(method.Type.Out(0).Name(), "Page[")
}

// params returns the operation's parameters of one place, in the document's order.
func (op operation) params(in string) []*openapi3.Parameter {
	var found []*openapi3.Parameter
	for _, ref := range op.spec.Parameters {
		if ref.Value.In == in {
			found = append(found, ref.Value)
		}
	}
	return found
}

// body returns the schema of the request's body, nil if it has none.
func (op operation) body() *openapi3.SchemaRef {
	if op.spec.RequestBody == nil {
		return nil
	}
	return op.spec.RequestBody.Value.Content.Get("application/json").Schema
}

// answer returns the schema and the media type of a status's body, nil if it has none.
func (op operation) answer(status string) (*openapi3.SchemaRef, string) {
	for media, content := range op.spec.Responses.Value(status).Value.Content {
		return content.Schema, media
	}
	return nil, ""
}

// statuses returns the documented statuses that begin with one of the digits.
func (op operation) statuses(digits string) []string {
	var found []string
	for status := range op.spec.Responses.Map() {
		if strings.ContainsAny(status[:1], digits) {
			found = append(found, status)
		}
	}
	slices.Sort(found)
	return found
}

// arguments are what a method is called with.
type arguments struct {
	ids    []string
	params map[string]string // by the document's name; query and header
	body   []byte
}

// arguments returns generated arguments, with every parameter or only the required.
func (op operation) arguments(tb testing.TB, every bool, how mode) arguments {
	tb.Helper()
	args := arguments{params: map[string]string{}}
	for _, p := range op.params("path") {
		args.ids = append(args.ids, "a/b c%2f..;é?#"+p.Name)
	}
	for i, p := range append(op.params("query"), op.params("header")...) {
		if !every && !p.Required {
			continue
		}
		value := "v-" + p.Name
		if p.In == "query" {
			value += " &=+%é"
		}
		if p.Schema.Value.Type != nil && p.Schema.Value.Type.Is("number") {
			value = strconv.Itoa(i + 7)
		}
		args.params[p.Name] = value
	}
	if schema := op.body(); schema != nil {
		args.body = how.encode(tb, schema)
	}
	return args
}

// outcome is what a method returned.
type outcome struct {
	value   reflect.Value   // of a method that returns one
	records []reflect.Value // of a stream
	err     error
}

// call calls the operation's method of client.
func (op operation) call(ctx context.Context, tb testing.TB, client *managementapi.Client, args arguments) outcome {
	tb.Helper()
	method := reflect.ValueOf(client).MethodByName(op.name)
	if !method.IsValid() {
		tb.Fatalf("%s %s: Client has no method %q", op.method, op.path, op.name)
	}
	shape := method.Type()
	in := []reflect.Value{reflect.ValueOf(ctx)}
	for _, id := range args.ids {
		in = append(in, reflect.ValueOf(id).Convert(shape.In(len(in))))
	}
	if len(op.params("query"))+len(op.params("header")) > 0 {
		in = append(in, paramStruct(tb, shape.In(len(in)), args.params))
	}
	if op.body() != nil {
		body := reflect.New(shape.In(len(in)))
		if err := json.Unmarshal(args.body, body.Interface()); err != nil {
			tb.Fatalf("%s does not take the documented body: %v", body.Type().Elem(), err)
		}
		in = append(in, body.Elem())
	}
	if len(in) != shape.NumIn() {
		tb.Fatalf("%s takes %d arguments, want %d", op.name, shape.NumIn(), len(in))
	}
	results := method.Call(in)
	if shape.Out(0).Kind() == reflect.Func { // a stream
		return drain(results[0])
	}
	last := len(results) - 1
	var out outcome
	out.err, _ = reflect.TypeAssert[error](results[last])
	if last > 0 {
		out.value = results[0]
	}
	return out
}

// drain reads a stream to its end.
func drain(stream reflect.Value) outcome {
	var out outcome
	for record, failure := range stream.Seq2() {
		if err, failed := reflect.TypeAssert[error](failure); failed {
			out.err = err
			continue
		}
		out.records = append(out.records, record)
	}
	return out
}

// paramStruct fills a …Params struct by the document's names.
func paramStruct(tb testing.TB, shape reflect.Type, params map[string]string) reflect.Value {
	tb.Helper()
	value := reflect.New(shape).Elem()
	plain := func(name string) string {
		return regexp.MustCompile(`[^a-z0-9]`).ReplaceAllString(strings.ToLower(name), "")
	}
	for name, text := range params {
		field := value.FieldByNameFunc(func(goName string) bool { return plain(goName) == plain(name) })
		if !field.IsValid() {
			tb.Fatalf("%s has no field for %s", shape, name)
		}
		if field.Kind() == reflect.Int {
			var number int64
			if _, err := fmt.Sscan(text, &number); err != nil {
				tb.Fatal(err)
			}
			field.SetInt(number)
			continue
		}
		field.SetString(text)
	}
	return value
}

// seen is a request as the server received it.
type seen struct {
	*http.Request
	body []byte
}

// upstream is a Management API that gives one answer and keeps the requests.
type upstream struct {
	URL       string
	Transport http.RoundTripper

	mu       sync.Mutex
	requests []seen
	handle   http.HandlerFunc
}

// upstreams are all that tests have started, by the first segment of their paths: one
// server for all of them, since a listener for each is what would take the time.
var upstreams sync.Map

var upstreamServer = sync.OnceValue(func() *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _, _ := strings.Cut(r.URL.Path[1:], "/")
		found, ok := upstreams.Load(key)
		if !ok {
			http.NotFound(w, r)
			return
		}
		r.RequestURI = strings.TrimPrefix(r.RequestURI, "/"+key)
		http.StripPrefix("/"+key, found.(*upstream)).ServeHTTP(w, r)
	}))
	server.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return server
})

// serve starts an upstream that answers with handle.
func serve(tb testing.TB, handle http.HandlerFunc) *upstream {
	tb.Helper()
	key, server := rand.Text(), upstreamServer()
	u := &upstream{handle: handle, URL: server.URL + "/" + key, Transport: server.Client().Transport}
	upstreams.Store(key, u)
	tb.Cleanup(func() { upstreams.Delete(key) })
	return u
}

// ServeHTTP keeps the request and answers it.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.requests = append(u.requests, seen{r, body})
	handle := u.handle
	u.mu.Unlock()
	handle(w, r)
}

// answer changes the answer.
func (u *upstream) answer(handle http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handle = handle
}

// taken returns the requests received until now.
func (u *upstream) taken() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.requests)
}

// answering returns a handler that gives one answer.
func answering(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if media != "" {
			w.Header().Set("Content-Type", media)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// client returns a client of the upstream that never repeats.
func (u *upstream) client(tb testing.TB) *managementapi.Client {
	tb.Helper()
	return newClient(tb, managementapi.Config{
		BaseURL: u.URL, Token: "tok", Transport: u.Transport, Retry: managementapi.RetrySettings{Attempts: 1},
	})
}

// newClient returns the client of a configuration.
func newClient(tb testing.TB, cfg managementapi.Config) *managementapi.Client {
	tb.Helper()
	client, err := managementapi.New(cfg)
	if err != nil {
		tb.Fatalf("New() = %v", err)
	}
	return client
}
