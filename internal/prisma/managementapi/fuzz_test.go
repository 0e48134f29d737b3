package managementapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// fixed is a transport that gives one answer.
type fixed struct {
	status     int
	media      string
	retryAfter string
	body       []byte
}

func (f fixed) RoundTrip(r *http.Request) (*http.Response, error) {
	header := http.Header{"Content-Type": {f.media}, "Retry-After": {f.retryAfter}}
	return &http.Response{
		StatusCode: f.status, Header: header, Body: io.NopCloser(strings.NewReader(string(f.body))), Request: r,
	}, nil
}

func (f fixed) client(t *testing.T) *managementapi.Client {
	t.Helper()
	return newClient(t, managementapi.Config{
		BaseURL: "http://prisma.localhost", Transport: f, Retry: managementapi.RetrySettings{Attempts: 1},
	})
}

// clean reports whether an error's text is made of our own words and a code.
func clean(text string) bool {
	return len(text) <= 200 && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// Whatever the API answers in place of a success, the error is an *APIError that says
// nothing of it but the status and a code.
func FuzzErrorBody(f *testing.F) {
	for _, body := range []string{
		``, `null`, `{}`, `[]`, `"`, `{"error": null}`, `{"error": "unauthorized", "errorDescription": "no"}`,
		`{"error": {"code": "resource-not-found", "message": "no such project", "hint": "look again"}}`,
		`{"error": {"code": "app:already_exists", "message": "m", "details": {"serviceId": "s"}}}`,
		`{"error": {"code": "a b\nc", "message": 7, "hint": null}}`, `{"error": {"code": "` + strings.Repeat("a", 65) + `"}}`,
		`<html>`, "\xff\xfe", `{"error": {"message": "` + strings.Repeat("é", 600) + `"}}`,
	} {
		f.Add(404, "application/json", "7", []byte(body))
		f.Add(409, "text/html", "Fri, 31 Dec 1999 23:59:59 GMT", []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, media, retryAfter string, body []byte) {
		if status < 300 || status > 999 {
			status = 409
		}
		client := fixed{status, media, retryAfter, body}.client(t)
		_, err := client.CreateApp(t.Context(), managementapi.CreateServiceRequest{})
		refusal := asAPI(t, err)
		if refusal.Status != status || !clean(refusal.Error()) {
			t.Errorf("error = %q, want the status %d and a code", refusal.Error(), status)
		}
		if len(refusal.Code) > 64 || strings.ContainsAny(refusal.Code, " \"'<>\n/@\\") || !clean(refusal.Code) {
			t.Errorf("Code = %q, which is none", refusal.Code)
		}
		if len(refusal.Message) > 1<<10 || len(refusal.Hint) > 1<<10 {
			t.Errorf("a message of %d and a hint of %d bytes, want at most 1 KiB", len(refusal.Message), len(refusal.Hint))
		}
		if refusal.RetryAfter < 0 || refusal.RetryAfter.Hours() > 1 {
			t.Errorf("RetryAfter = %v, want 0 to an hour", refusal.RetryAfter)
		}
		if text := refusal.Message; len(text) > 30 && strings.Contains(refusal.Error(), text) {
			t.Errorf("Error() repeats the message %q", text)
		}
		switch refusal.Body.(type) {
		case nil, *managementapi.ErrorResponse, *managementapi.ServiceConflictResponse:
		default:
			t.Errorf("Body is a %T", refusal.Body)
		}
	})
}

// Whatever the API answers as a success, a call returns a value or a *FetchError, and the
// value can be used and printed.
func FuzzAnswer(f *testing.F) {
	for _, how := range modes {
		for _, op := range operations(f) {
			if op.name == "CreateProject" || op.name == "ListDatabases" || op.name == "GetBuildLogs" {
				schema, media := op.answer(op.statuses("2")[0])
				f.Add(media, how.encode(f, schema))
			}
		}
	}
	for _, body := range []string{`null`, `{"data": null}`, `{"data": {"database": {"connections": [null, {"endpoints": null}]}}}`, `[`, "\x00"} {
		f.Add("application/json", []byte(body))
		f.Add("application/x-ndjson", []byte(body+"\n"+body))
	}
	f.Fuzz(func(t *testing.T, media string, body []byte) {
		client := fixed{status: http.StatusOK, media: media, body: body}.client(t)
		project, err := client.CreateProject(t.Context(), managementapi.CreateProjectRequest{})
		usable(t, err)
		_ = project.DatabaseURL().Reveal()
		if database := managementapi.Value(project.Database); len(database.Connections) > 0 && database.Source != nil {
			source := managementapi.Value(database.Source)
			_ = source.Discriminator()
		}
		encoded(t, project)

		page, err := client.ListDatabases(t.Context(), managementapi.ListDatabasesParams{})
		usable(t, err)
		encoded(t, page.Items)
		pages := 0
		for database, err := range client.AllDatabases(t.Context(), managementapi.ListDatabasesParams{}) {
			usable(t, err)
			encoded(t, database)
			pages++
		}
		if pages > len(body)+1 {
			t.Errorf("%d items from %d bytes", pages, len(body))
		}
		for record, err := range client.GetBuildLogs(t.Context(), "b", managementapi.GetBuildLogsParams{}) {
			usable(t, err)
			_ = record.Discriminator()
			_, _ = record.AsBuildLogLine()
			_, _ = record.AsBuildLogEnd()
		}
	})
}

// usable wants no error or a *FetchError that is made of our own words.
func usable(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if failure := asFetch(t, err); !clean(failure.Error()) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %q", failure.Error())
	}
}
