package managementapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// reply is what a script does with one request.
type reply struct {
	status int           // the answer's
	header []string      // its further headers, name and value in turn
	body   string        // "" is that of a workspace or, for a failure, none
	cut    bool          // the connection is reset within the body
	err    error         // there is no answer
	takes  time.Duration // until then
}

// script is a transport that plays replies in turn, and repeats the last one.
type script struct {
	replies []reply
	times   []time.Time // of the requests
	bearers []string
}

// refused is a request that never left, reset one that may have.
var (
	refused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	reset   = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
)

const workspace = `{"data": {"id": "wksp_1", "name": "one", "createdAt": "2026-01-02T03:04:05Z"}}`

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	play := s.replies[min(len(s.times), len(s.replies)-1)]
	s.times = append(s.times, bubbleTime())
	s.bearers = append(s.bearers, r.Header.Get("Authorization"))
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	select {
	case <-time.After(play.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if play.err != nil {
		return nil, play.err
	}
	header := http.Header{"Content-Type": {"application/json"}, "Date": {bubbleTime().UTC().Format(http.TimeFormat)}}
	for i := 0; i < len(play.header); i += 2 {
		header.Set(play.header[i], play.header[i+1])
	}
	body := play.body
	if body == "" && play.status < 300 {
		body = workspace
	}
	var reader io.Reader = strings.NewReader(body)
	if play.cut {
		reader = io.MultiReader(strings.NewReader(body[:5]), broken{})
	}
	return &http.Response{StatusCode: play.status, Header: header, Body: io.NopCloser(reader), Request: r}, nil
}

// bubbleTime is the time of the synctest bubble.
func bubbleTime() time.Time {
	return time.Now() //nolint:forbidigo // this is the fake clock
}

// broken is a connection that was reset.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, reset }

// scripted returns a client of the replies, with the settings.
func scripted(t *testing.T, settings managementapi.RetrySettings, replies ...reply) (*managementapi.Client, *script) {
	t.Helper()
	played := &script{replies: replies}
	return newClient(t, managementapi.Config{
		BaseURL: "http://prisma.localhost", Token: "tok", Transport: played, Retry: settings,
	}), played
}

// verbs are one call for each method of HTTP.
var verbs = map[string]func(context.Context, *managementapi.Client) error{
	"GET": func(ctx context.Context, c *managementapi.Client) error {
		_, err := c.GetWorkspace(ctx, "wksp_1")
		return err
	},
	"POST": func(ctx context.Context, c *managementapi.Client) error {
		_, err := c.CreateWorkspace(ctx, managementapi.CreateWorkspaceRequest{})
		return err
	},
	"POST without a body": func(ctx context.Context, c *managementapi.Client) error {
		_, err := c.RotateConnection(ctx, "con_1")
		return err
	},
	"PATCH": func(ctx context.Context, c *managementapi.Client) error {
		_, err := c.UpdateProject(ctx, "proj_1", managementapi.UpdateProjectRequest{})
		return err
	},
	"PUT": func(ctx context.Context, c *managementapi.Client) error {
		return c.PutBuildResource(ctx, "b", "t", "r", managementapi.PutBuildResourceRequest{})
	},
	"DELETE": func(ctx context.Context, c *managementapi.Client) error {
		return c.DeleteProject(ctx, "proj_1")
	},
	"stream": func(ctx context.Context, c *managementapi.Client) error {
		for _, err := range c.GetBuildLogs(ctx, "b", managementapi.GetBuildLogsParams{}) {
			if err != nil {
				return err
			}
		}
		return nil
	},
}

// Which call is sent how often after which failure: 3 is as often as the settings allow.
func TestRepeated(t *testing.T) {
	t.Parallel()
	failures := map[string]struct {
		reply    reply
		get, put int // requests: of a read, of a PUT or DELETE
	}{
		"429":               {reply{status: 429}, 3, 3},
		"500":               {reply{status: 500}, 3, 1},
		"502":               {reply{status: 502}, 3, 1},
		"503":               {reply{status: 503}, 3, 1},
		"504":               {reply{status: 504}, 3, 1},
		"400":               {reply{status: 400}, 1, 1},
		"401":               {reply{status: 401}, 1, 1},
		"404":               {reply{status: 404}, 1, 1},
		"409":               {reply{status: 409}, 1, 1},
		"302":               {reply{status: 302}, 1, 1},
		"101":               {reply{status: 101}, 1, 1},
		"refused":           {reply{err: refused}, 3, 3},
		"reset":             {reply{err: reset}, 3, 1},
		"closed":            {reply{err: io.EOF}, 3, 1},
		"unknown transport": {reply{err: errors.New("lost")}, 3, 1},
		"not JSON":          {reply{status: 200, body: "<html>"}, 1, 1},
	}
	want := map[string]func(get, put int) int{
		"GET":    func(get, _ int) int { return get },
		"stream": func(get, _ int) int { return get },
		"PUT":    func(_, put int) int { return put },
		"DELETE": func(_, put int) int { return put },
	}
	for verb, call := range verbs {
		for name, tc := range failures {
			t.Run(verb+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					client, played := scripted(t, managementapi.RetrySettings{}, tc.reply)
					if err := call(t.Context(), client); err == nil {
						t.Error("no error")
					}
					requests := 1
					if count, ok := want[verb]; ok {
						requests = count(tc.get, tc.put)
					}
					if len(played.times) != requests {
						t.Errorf("%d requests, want %d", len(played.times), requests)
					}
				})
			})
		}
	}
}

// A read that is cut off within its body is read again.
func TestResetInBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, played := scripted(t, managementapi.RetrySettings{}, reply{status: 200, cut: true}, reply{status: 200})
		got, err := client.GetWorkspace(t.Context(), "wksp_1")
		if err != nil || got.ID != "wksp_1" || len(played.times) != 2 {
			t.Errorf("GetWorkspace() = %v, %v after %d requests, want wksp_1 after 2", got.ID, err, len(played.times))
		}
		client, played = scripted(t, managementapi.RetrySettings{}, reply{status: 201, cut: true}, reply{status: 201})
		_, err = client.CreateWorkspace(t.Context(), managementapi.CreateWorkspaceRequest{})
		if failure := asFetch(t, err); !failure.Sent || !errors.Is(err, syscall.ECONNRESET) || len(played.times) != 1 {
			t.Errorf("CreateWorkspace() = %v after %d requests, want one that was reset", err, len(played.times))
		}
	})
}

// A creation is sent again only where a token was refused, and then once.
func TestCreateWithAuthorizer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		replies []reply
		want    string
	}{
		"first token":     {[]reply{{status: 201}}, "Bearer a"},
		"second token":    {[]reply{{status: 401}, {status: 201}}, "Bearer a,Bearer b"},
		"both refused":    {[]reply{{status: 401}}, "Bearer a,Bearer b"},
		"429":             {[]reply{{status: 429}}, "Bearer a"},
		"503":             {[]reply{{status: 503}}, "Bearer a"},
		"reset":           {[]reply{{err: reset}}, "Bearer a"},
		"refused":         {[]reply{{err: refused}}, "Bearer a"},
		"503 after a 401": {[]reply{{status: 401}, {status: 503}}, "Bearer a,Bearer b"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, played := scripted(t, managementapi.RetrySettings{}, tc.replies...)
				_ = verbs["POST"](t.Context(), client.WithAuthorizer(&tokens{values: []string{"a", "b"}}))
				if got := strings.Join(played.bearers, ","); got != tc.want {
					t.Errorf("tokens = %s, want %s", got, tc.want)
				}
			})
		})
	}
}

// The server's advice is followed if it is short, and handed on if it is not.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	date := func(in time.Duration) string {
		return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(in).Format(http.TimeFormat) // synctest's start
	}
	tests := map[string]struct {
		advice  string
		timeout time.Duration
		waits   time.Duration // 0: the error at once
		reports time.Duration
	}{
		"seconds":             {advice: "3", waits: 3 * time.Second},
		"fraction":            {advice: "1.5", waits: 1500 * time.Millisecond},
		"date":                {advice: date(4 * time.Second), waits: 4 * time.Second},
		"longer than allowed": {advice: "6", reports: 6 * time.Second},
		"far date":            {advice: date(time.Minute), reports: time.Minute},
		"days":                {advice: "864000", reports: time.Hour},
		"beyond the deadline": {advice: "3", timeout: 3 * time.Second, reports: 3 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				played := &script{replies: []reply{{status: 429, header: []string{"Retry-After", tc.advice}}, {status: 200}}}
				client := newClient(t, managementapi.Config{BaseURL: "http://prisma.localhost", Transport: played, Timeout: tc.timeout})
				start := bubbleTime()
				_, err := client.GetWorkspace(t.Context(), "wksp_1")
				if waited := time.Since(start); waited != tc.waits {
					t.Errorf("took %v, want %v", waited, tc.waits)
				}
				if tc.waits > 0 {
					if err != nil {
						t.Errorf("GetWorkspace() = %v", err)
					}
					return
				}
				if refusal := asAPI(t, err); refusal.RetryAfter != tc.reports || len(played.times) != 1 {
					t.Errorf("RetryAfter = %v after %d requests, want %v after 1", refusal.RetryAfter, len(played.times), tc.reports)
				}
			})
		})
	}
}

// Pauses double up to the bound, and are drawn below it.
func TestBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const attempts = 8
		longest := make([]time.Duration, attempts-1)
		for range 200 {
			client, played := scripted(t, managementapi.RetrySettings{Attempts: attempts}, reply{err: refused})
			_ = verbs["GET"](t.Context(), client)
			for i := range longest {
				longest[i] = max(longest[i], played.times[i+1].Sub(played.times[i]))
			}
		}
		for i, got := range longest {
			bound := min(200*time.Millisecond<<i, 2*time.Second)
			if got > bound || got < bound*3/4 {
				t.Errorf("the longest of 200 pauses before attempt %d is %v, want nearly %v", i+2, got, bound)
			}
		}
	})
}

// The deadline holds for all attempts together.
func TestRetryDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, played := scripted(t, managementapi.RetrySettings{Attempts: 100, Budget: 100}, reply{status: 503, takes: 4 * time.Second})
		start := bubbleTime()
		err := verbs["GET"](t.Context(), client)
		if took := time.Since(start); took > 30*time.Second || took < 20*time.Second || len(played.times) < 4 {
			t.Errorf("took %v and %d requests, want up to 30 s", took, len(played.times))
		}
		if refusal, ok := errors.AsType[*managementapi.APIError](err); ok && refusal.Status != 503 || !ok && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want the 503 or the deadline", err)
		}
	})
}

// Who cancels during a pause learns at once that it was that, and what came before.
func TestCancelledPause(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		verb  string
		reply reply
		sent  bool
		last  string
	}{
		"read":         {"GET", reply{status: 503}, true, "prisma: status 503"},
		"stream":       {"stream", reply{status: 503}, true, "prisma: status 503"},
		"deletion":     {"DELETE", reply{status: 429}, true, "prisma: status 429"},
		"not sent":     {"DELETE", reply{err: refused}, false, "prisma: not sent: dial tcp: connection refused"},
		"network read": {"GET", reply{err: reset}, true, "prisma: no usable answer: read tcp: connection reset by peer"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				settings := managementapi.RetrySettings{From: time.Hour, To: time.Hour}
				played := &script{replies: []reply{tc.reply}}
				client := newClient(t, managementapi.Config{
					BaseURL: "http://prisma.localhost", Transport: played, Retry: settings, Timeout: 2 * time.Hour,
				})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Millisecond, cancel)
				start := bubbleTime()
				err := verbs[tc.verb](ctx, client)
				if took := time.Since(start); took != time.Millisecond || len(played.times) != 1 {
					t.Fatalf("took %v and %d requests, want 1 ms and 1", took, len(played.times))
				}
				failure := asFetch(t, err)
				if failure.Sent != tc.sent || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tc.last) {
					t.Errorf("error = %v, sent %t, want a cancellation after %q, sent %t", err, failure.Sent, tc.last, tc.sent)
				}
			})
		})
	}
}

// A server that is down meets the calls, the budget, and a tenth of what succeeded.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls, stored = 1000, 10
		client, played := scripted(t, managementapi.RetrySettings{}, reply{status: 503})
		derived := []*managementapi.Client{client, client.WithToken("b"), client.WithAuthorizer(&tokens{values: []string{"c"}})}
		for i := range calls {
			_ = verbs["GET"](t.Context(), derived[i%len(derived)])
		}
		if got := len(played.times); got != calls+stored {
			t.Errorf("%d requests for %d calls, want %d", got, calls, calls+stored)
		}
		before := len(played.times)
		played.replies = []reply{{status: 200}}
		for range 30 {
			if err := verbs["GET"](t.Context(), client); err != nil {
				t.Fatal(err)
			}
		}
		played.replies = []reply{{status: 503}}
		for range calls {
			_ = verbs["GET"](t.Context(), client)
		}
		if got := len(played.times) - before - 30 - calls; got != 3 {
			t.Errorf("%d repetitions after 30 successes, want 3", got)
		}
	})
}

// The number of attempts is bounded, and 1 means never again.
func TestAttempts(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[int]int{0: 3, 1: 1, 2: 2, 5: 5} {
		t.Run(strconv.Itoa(attempts), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, played := scripted(t, managementapi.RetrySettings{Attempts: attempts}, reply{status: 500})
				if refusal := asAPI(t, verbs["GET"](t.Context(), client)); refusal.Status != 500 {
					t.Errorf("status = %d, want 500", refusal.Status)
				}
				if len(played.times) != want {
					t.Errorf("%d requests, want %d", len(played.times), want)
				}
			})
		})
	}
}
