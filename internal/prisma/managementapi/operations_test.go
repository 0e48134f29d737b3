package managementapi_test

import (
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// All 118 operations of the document are methods of Client. Beside them it has Raw and the
// methods about itself, and nothing else.
func TestMethods(t *testing.T) {
	t.Parallel()
	want := map[string]bool{
		"WithToken": true, "WithAuthorizer": true, "String": true, "GoString": true, "LogValue": true, "Format": true, "Raw": true,
	}
	if count := len(operations(t)); count != 118 {
		t.Errorf("the document has %d operations, want 118", count)
	}
	client := reflect.TypeFor[*managementapi.Client]()
	for _, op := range operations(t) {
		if op.name == "" || want[op.name] {
			t.Errorf("%s %s has no Go name of its own: %q", op.method, op.path, op.name)
		}
		want[op.name] = true
		if _, ok := client.MethodByName(op.name); !ok {
			t.Errorf("%s %s: Client has no method %q", op.method, op.path, op.name)
			continue
		}
		if op.pages(t) {
			want["All"+strings.TrimPrefix(op.name, "List")] = true
		}
	}
	for method := range client.Methods() {
		if !want[method.Name] {
			t.Errorf("the method %s is no operation of the document", method.Name)
		}
		delete(want, method.Name)
	}
	for name := range want {
		t.Errorf("Client has no method %q", name)
	}
}

// Every operation sends one request, and it is the documented one.
func TestRequests(t *testing.T) {
	t.Parallel()
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		for name, how := range modes {
			if how.strange {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				args := op.arguments(t, how.optional, how)
				api := serve(t, answering(http.StatusTeapot, "", ""))
				if out := op.call(t.Context(), t, api.client(t), args); out.err == nil {
					t.Error("an answer with status 418 is no error")
				}
				requests := api.taken()
				if len(requests) != 1 {
					t.Fatalf("%d requests, want 1", len(requests))
				}
				checkRequest(t, op, args, requests[0])
			})
		}
	})
}

func checkRequest(t *testing.T, op operation, args arguments, got seen) {
	t.Helper()
	ids := args.ids
	path := regexp.MustCompile(`\{[^}]+\}`).ReplaceAllStringFunc(op.path, func(string) string {
		id := ids[0]
		ids = ids[1:]
		return url.PathEscape(id)
	})
	if rawPath, _, _ := strings.Cut(got.RequestURI, "?"); got.Method != op.method || rawPath != path {
		t.Errorf("request = %s %s, want %s %s", got.Method, rawPath, op.method, path)
	}
	query, header := url.Values{}, http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"},
		"Authorization": {"Bearer tok"}, "User-Agent": {"Go-http-client/1.1"},
	}
	for _, p := range op.params("query") {
		if value, ok := args.params[p.Name]; ok {
			query.Set(p.Name, value)
		}
	}
	for _, p := range op.params("header") {
		header.Set(p.Name, args.params[p.Name])
	}
	if _, media := op.answer(op.statuses("2")[0]); media == "application/x-ndjson" {
		header.Set("Accept", "application/x-ndjson, application/json;q=0.5")
	}
	got.Header.Del("Content-Length")
	if schema := op.body(); schema != nil {
		header.Set("Content-Type", "application/json")
		if err := validate(schema.Value, got.body); err != nil {
			t.Errorf("the body is not of the schema: %v", err)
		}
		if diff := cmp.Diff(decoded(t, args.body), decoded(t, got.body)); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
	} else if len(got.body) > 0 {
		t.Errorf("there is a body of %d bytes, want none", len(got.body))
	}
	if diff := cmp.Diff(query, got.URL.Query()); diff != "" {
		t.Errorf("query (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(header, got.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

// Arguments that can't be sent are refused before anything is, a token included.
func TestRefusedArguments(t *testing.T) {
	t.Parallel()
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		api := serve(t, answering(http.StatusNoContent, "", ""))
		asked := &tokens{}
		client := api.client(t).WithAuthorizer(asked)
		refused := func(what string, args arguments) {
			out := op.call(t.Context(), t, client, args)
			failure := asFetch(t, out.err)
			if failure.Sent {
				t.Errorf("%s: error = %v, want one that says it was not sent", what, out.err)
			}
		}
		for i := range op.params("path") {
			for _, id := range []string{"", ".", "..", strings.Repeat("a", 300)} {
				args := op.arguments(t, true, modes["every field"])
				args.ids[i] = id
				refused("id "+id, args)
			}
		}
		for _, p := range append(op.params("query"), op.params("header")...) {
			args := op.arguments(t, true, modes["every field"])
			if p.Required {
				args.params[p.Name] = ""
				refused("no "+p.Name, args)
			}
			if p.In == "header" {
				args.params[p.Name] = "a\r\nb: c"
				refused("line break in "+p.Name, args)
			}
		}
		if n := len(api.taken()); n != 0 {
			t.Errorf("%d requests were sent, want none", n)
		}
		if asked.count() != 0 {
			t.Errorf("a token was asked for %d times, want none", asked.count())
		}
	})
}
