package drill_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/drill"
	"github.com/connect-prisma/server/internal/pgtest"
)

// present sends a refresh token that nobody issued and returns the status, 0 when there
// was no answer.
func present(ctx context.Context, t *testing.T, origin string) int {
	t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"of nobody"}, "client_id": {"client"}, "client_secret": {"secret"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestWeather(t *testing.T) {
	t.Parallel()
	p := drill.OpenPlatform(t, pgtest.OpenEmpty(t).OwnerURL)
	if got := present(t.Context(), t, p.URL()); got != http.StatusUnauthorized {
		t.Errorf("calm: status %d, want the simulator's 401", got)
	}
	p.Hang(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if got := present(ctx, t, p.URL()); got != 0 {
		t.Errorf("hanging: status %d", got)
	}
	p.Cut()
	if got := present(t.Context(), t, p.URL()); got != 0 {
		t.Errorf("dead: status %d, want none", got)
	}
	if p.Refreshes() != 3 {
		t.Errorf("%d refreshes were counted, want 3", p.Refreshes())
	}
}
