package prisma_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
)

// lines is a log handler that keeps what was said, as "LEVEL message".
type lines struct {
	slog.Handler

	mu   sync.Mutex
	said []string
}

// Enabled implements slog.Handler.
func (*lines) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, _, _ := strings.Cut(r.Message, ";")
	l.said = append(l.said, r.Level.String()+" "+first)
	return nil
}

// TestFollowMetadata lets three days pass: the server is away at first, comes back, and
// publishes a bad document later. In the bubble of synctest every goroutine has to end.
func TestFollowMetadata(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const issuer = "http://127.0.0.1:1"
		began := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC) // when time begins in a bubble
		var asked []time.Duration
		oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(*http.Request, url.Values) string {
			at := time.Since(began)
			asked = append(asked, at)
			switch {
			case at < 10*time.Minute:
				return response(http.StatusServiceUnavailable, "text/plain", "down")
			case at > 24*time.Hour && at < 48*time.Hour:
				return response(http.StatusOK, "application/json", metadataOf(issuer, map[string]any{"code_challenge_methods_supported": nil}))
			}
			return response(http.StatusOK, "application/json", metadataOf(issuer, nil))
		})})
		ctx, cancel := context.WithCancel(t.Context())
		log := &lines{}
		_, first := oauth.Discover(ctx)
		if _, ok := errors.AsType[*prisma.DiscoveryError](first); !ok {
			t.Fatalf("Discover() error = %v", first)
		}
		var following sync.WaitGroup
		following.Go(func() { oauth.FollowMetadata(ctx, slog.New(log), first) })

		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if _, known := oauth.Metadata(); known {
			t.Error("known while the server is away")
		}
		time.Sleep(3 * time.Minute) // more than the longest pause after the server is back
		synctest.Wait()
		good, known := oauth.Metadata()
		if !known || good.TokenEndpoint != issuer+"/oauth/token" {
			t.Errorf("12 minutes later: %+v, %t", good, known)
		}
		time.Sleep(36 * time.Hour)
		synctest.Wait()
		if now, known := oauth.Metadata(); !known || now != good {
			t.Errorf("under a bad document: %+v, %t", now, known)
		}
		time.Sleep(36 * time.Hour)
		cancel()
		following.Wait()

		checkPauses(t, asked)
		want := []string{
			"WARN authorization server metadata not read", "INFO authorization server metadata read",
			"ERROR authorization server metadata refused", "INFO authorization server metadata read",
		}
		if diff := cmp.Diff(want, log.said); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// checkPauses wants doubling pauses up to a minute until the answer after 10 minutes,
// and hourly ones from then on, each shortened by up to a quarter.
func checkPauses(t *testing.T, asked []time.Duration) {
	t.Helper()
	most := time.Second
	varied := map[time.Duration]bool{}
	for i := 1; i < len(asked); i++ {
		if asked[i-1] >= 10*time.Minute {
			most = time.Hour
		}
		pause := asked[i] - asked[i-1]
		if pause > most || pause < most*3/4 {
			t.Errorf("attempt %d came after %s, want %s to %s", i, pause, most*3/4, most)
		}
		varied[pause] = true
		most = min(2*most, time.Minute)
	}
	if len(asked) < 80 || len(varied) < len(asked)-3 {
		t.Errorf("%d attempts with %d different pauses", len(asked), len(varied))
	}
}

// TestFollowMetadataEndsInTheMiddle cancels while a request hangs.
func TestFollowMetadataEndsInTheMiddle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		oauth := newOAuth(t, prisma.OAuthConfig{
			AuthURL:     "http://127.0.0.1:1",
			DialContext: piped(func(*http.Request, url.Values) string { <-hold; return "" }),
		})
		ctx, cancel := context.WithCancel(t.Context())
		log := &lines{}
		var following sync.WaitGroup
		following.Go(func() { oauth.FollowMetadata(ctx, slog.New(log), nil) })
		time.Sleep(1500 * time.Millisecond) // the first attempt hangs by now
		cancel()
		following.Wait()
		if len(log.said) != 0 {
			t.Errorf("the end was logged as a failure: %q", log.said)
		}
		close(hold)
	})
}
