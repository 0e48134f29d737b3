package managementapi_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// canary is in every unusable answer of these tests, and must be in no error.
const canary = "canary-7f3a"

// silent reports a canary in any print of an error. A caller who wants Prisma's words asks
// for the fields; fmt's %#v shows those and is left out.
func silent(t *testing.T, err error) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%s", "%q"} {
		if text := fmt.Sprintf(verb, err); strings.Contains(text, canary) {
			t.Errorf("the error repeats the answer: %s", text)
		}
	}
}

// A status that is not documented is an *APIError which says so, whatever the body.
func TestUndocumentedStatus(t *testing.T) {
	t.Parallel()
	problem := `{"error": {"code": "made-up", "message": "` + canary + `", "hint": "` + canary + `"}}`
	bodies := map[string]http.HandlerFunc{
		"problem": func(w http.ResponseWriter, r *http.Request) {
			answering(statusOf(r), "application/json", problem)(w, r)
		},
		"page": func(w http.ResponseWriter, r *http.Request) {
			answering(statusOf(r), "text/html", "<h1>"+canary+"</h1>")(w, r)
		},
	}
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		for name, handle := range bodies {
			api := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/"+canary)
				handle(w, r)
			})
			for _, status := range []int{203, 299, 302, 307, 404, 418, 429, 500, 502, 503} {
				if op.spec.Responses.Status(status) != nil {
					continue
				}
				client := newClient(t, managementapi.Config{
					BaseURL: api.URL + "/" + strconv.Itoa(status), Transport: api.Transport,
					Retry: managementapi.RetrySettings{Attempts: 1},
				})
				out := op.call(t.Context(), t, client, op.arguments(t, false, mode{}))
				refusal := asAPI(t, out.err)
				want := fmt.Sprintf("prisma: status %d (not documented for this call)", status)
				if name == "problem" {
					want = fmt.Sprintf("prisma: status %d: made-up (not documented for this call)", status)
				}
				if refusal.Status != status || refusal.Body != nil || refusal.Error() != want {
					t.Errorf("%s: error = %v with body %T, want %s", name, refusal, refusal.Body, want)
				}
				silent(t, out.err)
			}
		}
	})
}

// statusOf returns the status that the first segment of the path asks for.
func statusOf(r *http.Request) int {
	status, err := strconv.Atoi(strings.Split(r.URL.Path, "/")[1])
	if err != nil {
		return http.StatusNotImplemented
	}
	return status
}

// A success whose body is not the documented one is a *FetchError: the call was done, but
// there is no answer to it.
func TestUnusableSuccess(t *testing.T) {
	t.Parallel()
	const jsonType = "application/json; charset=utf-8"
	shapes := map[string]struct{ media, body string }{
		"page":             {"text/html", "<html>" + canary},
		"no content type":  {"", `{"data": "` + canary + `"}`},
		"binary":           {"application/octet-stream", canary},
		"plain text":       {"text/plain", `"` + canary + `"`},
		"broken type":      {"application/json; =", `"` + canary + `"`},
		"empty":            {jsonType, ""},
		"not JSON":         {jsonType, canary},
		"two values":       {jsonType, `{"data": {}} "` + canary + `"`},
		"array of objects": {jsonType, `[{"id": "` + canary + `"}]`},
		"text":             {jsonType, `"` + canary + `"`},
		"number":           {jsonType, `7`},
		"null":             {jsonType, `null`},
		"empty object":     {jsonType, `{}`},
		"other object":     {jsonType, `{"canary": "` + canary + `"}`},
		"an error":         {jsonType, `{"error": {"code": "x", "message": "` + canary + `"}}`},
		"data is text":     {jsonType, `{"data": "` + canary + `"}`},
		"data is null":     {jsonType, `{"data": null}`},
		"data is another":  {jsonType, `{"data": {"canary": "` + canary + `"}}`},
		"data is texts":    {jsonType, `{"data": ["` + canary + `"], "pagination": {"nextCursor": null, "hasMore": false}}`},
		"no pagination":    {jsonType, `{"data": []}`},
		"more, not where":  {jsonType, `{"data": [], "pagination": {"nextCursor": null, "hasMore": true}}`},
	}
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		status := op.statuses("2")[0]
		code, _ := strconv.Atoi(status)
		schema, media := op.answer(status)
		if media != "application/json" {
			return
		}
		api := serve(t, nil)
		unusable := func(t *testing.T, what string, handle http.HandlerFunc) {
			t.Helper()
			t.Log("the answer:", what) // printed when it fails
			api.answer(handle)
			checkUnusable(t, op.call(t.Context(), t, api.client(t), op.arguments(t, false, mode{})))
		}
		for name, tc := range shapes {
			paging := name == "no pagination" || name == "more, not where"
			switch {
			case paging && !op.pages(t), !paging && strings.HasPrefix(tc.media, media) && validate(schema.Value, []byte(tc.body)) == nil:
				continue // this operation answers so
			case name == "null" && schema.Value.Type == nil:
				continue // any JSON
			}
			unusable(t, name, answering(code, tc.media, tc.body))
		}
		whole := string(modes["every field"].encode(t, schema))
		for name, handle := range map[string]http.HandlerFunc{
			"truncated JSON": answering(code, jsonType, whole[:len(whole)-1]),
			"cut off": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", jsonType)
				w.Header().Set("Content-Length", strconv.Itoa(len(whole)+1))
				w.WriteHeader(code)
				_, _ = io.WriteString(w, whole)
			},
			"unknown encoding": func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "br")
				answering(code, jsonType, whole)(w, r)
			},
		} {
			unusable(t, name, handle)
		}
	})
}

// checkUnusable wants a *FetchError that repeats nothing of the answer, and no value.
func checkUnusable(t *testing.T, out outcome) {
	t.Helper()
	failure := asFetch(t, out.err)
	if !failure.Sent || failure.Unwrap() == nil {
		t.Errorf("error = %v, want one that was sent, with a cause", failure)
	}
	if out.value.IsValid() && !out.value.IsZero() {
		t.Errorf("with the error comes %v, want nothing", out.value)
	}
	silent(t, out.err)
}

// No answer takes more than 10 MiB of memory, however it is packed.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	const size = 11 << 20
	padding := strings.Repeat(" ", 1<<20)
	flood := func(w io.Writer) {
		for range size >> 20 {
			if _, err := io.WriteString(w, padding); err != nil {
				return
			}
		}
	}
	tests := map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, _ *http.Request) { flood(w) },
		"gzip": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			defer packed.Close()
			flood(packed)
		},
	}
	for name, handle := range tests {
		for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				t.Parallel()
				api := serve(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					if name == "gzip" {
						w.Header().Set("Content-Encoding", "gzip")
					}
					w.WriteHeader(status)
					handle(w, r)
				})
				_, err := api.client(t).GetMe(t.Context())
				if status == http.StatusUnauthorized {
					if refusal := asAPI(t, err); refusal.Status != status || refusal.Body != nil {
						t.Errorf("error = %v with a body %T, want the status alone", err, refusal.Body)
					}
					return
				}
				if failure := asFetch(t, err); failure.Error() != "prisma: no usable answer: the answer is larger than 10 MiB" {
					t.Errorf("error = %v, want one that names the limit", failure)
				}
			})
		}
	}
}

// TestMadeWithoutID: what was made but can't be named is no usable answer, so that it is
// looked for instead of forgotten.
func TestMadeWithoutID(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"data": {"name": "x"}}`, `{"data": {"name": "x", "id": ""}}`, `{"data": {"name": "x", "id": null}}`} {
		client := serve(t, answering(http.StatusCreated, "application/json", body)).client(t)
		_, err := client.CreateProject(t.Context(), managementapi.CreateProjectRequest{})
		if failure, ok := errors.AsType[*managementapi.FetchError](err); !ok || !failure.Sent {
			t.Errorf("CreateProject() with the answer %s: error = %v, want a *FetchError that was sent", body, err)
		}
	}
}
