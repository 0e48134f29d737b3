package managementapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// line is a record of a build's log, of the given text.
func line(text string) string {
	return `{"type": "log", "text": "` + text + `", "newer": 1}` + "\n"
}

// logs starts an upstream that sends the text as a stream, flushed, and then calls then.
func logs(t *testing.T, text string, then func(w http.ResponseWriter, r *http.Request)) *upstream {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		if then != nil {
			then(w, r)
		}
	})
}

// read reads a stream to its end.
func read(ctx context.Context, client *managementapi.Client) ([]string, error) {
	var texts []string
	for record, err := range client.GetBuildLogs(ctx, "bld_1", managementapi.GetBuildLogsParams{}) {
		if err != nil {
			return texts, err
		}
		text, err := record.AsBuildLogLine()
		if err != nil {
			return texts, err
		}
		texts = append(texts, text.Text)
	}
	return texts, nil
}

func TestStream(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		then func(http.ResponseWriter, *http.Request)
		want string
		err  string
	}{
		"records":           {text: line("a") + line("b"), want: "a b"},
		"no records":        {},
		"blank lines":       {text: "\n" + line("a") + "\r\n \n" + line("b"), want: "a b"},
		"no last line feed": {text: strings.TrimSpace(line("a")), want: "a"},
		"long record":       {text: line(strings.Repeat("a", 1<<19)), want: strings.Repeat("a", 1<<19)},
		"too long a record": {
			text: line("a") + line(strings.Repeat(canary, 1<<17)), want: "a",
			err: "prisma: no usable answer: a record is larger than 1 MiB",
		},
		"not JSON": {
			text: line("a") + canary + "\n" + line("b"), want: "a",
			err: "prisma: no usable answer: a record is not the documented JSON",
		},
		"cut off": {
			text: line("a") + `{"type": "l`, want: "a", err: "prisma: no usable answer: unexpected EOF",
			then: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := logs(t, tc.text, tc.then)
			texts, err := read(t.Context(), api.client(t))
			if got := strings.Join(texts, " "); got != tc.want {
				t.Errorf("records = %.100q, want %.100q", got, tc.want)
			}
			if tc.err == "" && err != nil || tc.err != "" && asFetch(t, err).Error() != tc.err {
				t.Errorf("error = %v, want %q", err, tc.err)
			}
			if err != nil {
				silent(t, err)
			}
			if n := len(api.taken()); n != 1 {
				t.Errorf("%d requests, want 1: a stream that has begun is not begun again", n)
			}
		})
	}
}

// An answer that is no stream is an error which repeats nothing of it.
func TestNoStream(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]http.HandlerFunc{
		"JSON":            answering(200, "application/json", `{"data": "`+canary+`"}`),
		"page":            answering(200, "text/html", canary),
		"no content type": answering(200, "", canary),
		"no content":      answering(204, "", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := read(t.Context(), serve(t, handle).client(t))
			if err == nil {
				t.Fatal("no error")
			}
			silent(t, err)
		})
	}
}

// A stream is repeated until it begins, and leaving the loop ends the request.
func TestStreamBreak(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	api := logs(t, line("a")+line("b"), func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(ended)
	})
	for _, err := range api.client(t).GetBuildLogs(t.Context(), "bld_1", managementapi.GetBuildLogsParams{}) {
		if err != nil {
			t.Errorf("the first record: %v", err)
		}
		break
	}
	<-ended
}

// slowStream is a transport whose answer is a stream with an hour between its records.
type slowStream struct{}

func (slowStream) RoundTrip(r *http.Request) (*http.Response, error) {
	body, records := io.Pipe()
	go func() {
		for _, text := range []string{"a", "b"} {
			time.Sleep(time.Hour)
			_, _ = io.WriteString(records, line(text))
		}
		_ = records.Close()
	}()
	header := http.Header{"Content-Type": {"application/x-ndjson"}}
	return &http.Response{StatusCode: http.StatusOK, Header: header, Body: body, Request: r}, nil
}

// The timeout bounds the wait for a stream, not the stream.
func TestStreamTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, managementapi.Config{BaseURL: "http://prisma.localhost", Transport: slowStream{}})
		if texts, err := read(t.Context(), client); err != nil || len(texts) != 2 {
			t.Errorf("read %d records, %v, want 2", len(texts), err)
		}
	})
}

// A caller who goes away ends the stream with that error.
func TestStreamCancelled(t *testing.T) {
	t.Parallel()
	api := logs(t, line("a"), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	var last error
	for _, err := range api.client(t).GetBuildLogs(ctx, "bld_1", managementapi.GetBuildLogsParams{}) {
		if last = err; err == nil {
			cancel()
		}
	}
	cancel()
	if failure := asFetch(t, last); !errors.Is(failure, context.Canceled) {
		t.Errorf("the last error = %v, want context.Canceled", failure)
	}
}

// A server that switches to another protocol unasked gives an error, and no wait.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	switched := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.ReadAll(conn) // until the client closes it
		_ = conn.Close()
	}
	client := serve(t, switched).client(t)
	const want = "prisma: no usable answer: the server switched to another protocol, unasked"
	for _, err := range client.GetDeploymentLogs(t.Context(), "dep_1", managementapi.GetDeploymentLogsParams{}) {
		if failure := asFetch(t, err); failure.Error() != want {
			t.Errorf("GetDeploymentLogs() = %v, want %s", err, want)
		}
	}
	if _, err := client.GetMe(t.Context()); asFetch(t, err).Error() != want {
		t.Errorf("GetMe() = %v, want %s", err, want)
	}
}

// The stream's errors before it begins are those of any call.
func TestStreamAuthorizer(t *testing.T) {
	t.Parallel()
	none := errors.New("no token")
	api := logs(t, line("a"), nil)
	if _, err := read(t.Context(), api.client(t).WithAuthorizer(&tokens{err: none})); !errors.Is(err, none) || len(api.taken()) != 0 {
		t.Errorf("error = %v after %d requests, want the authorizer's after none", err, len(api.taken()))
	}
	api.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer b" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, line("a"))
	})
	if texts, err := read(t.Context(), api.client(t).WithAuthorizer(&tokens{values: []string{"a", "b"}})); err != nil || len(texts) != 1 {
		t.Errorf("read %d records, %v, want 1", len(texts), err)
	}
}
