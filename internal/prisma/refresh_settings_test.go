package prisma_test

import (
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

func TestRefreshSettings(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		settings prisma.RefreshSettings
		want     string // part of the error; "": none
	}{
		"defaults":           {prisma.RefreshSettings{}, ""},
		"scaled down":        {prisma.RefreshSettings{Lease: 5 * time.Second, Write: time.Second, Stall: time.Second, SendGuard: time.Second, WriteAttempt: time.Second, Exchange: prisma.ExchangeTimeouts{Dial: time.Second, TLS: time.Second, Answer: time.Second}}, ""},
		"lease too short":    {prisma.RefreshSettings{Lease: 179 * time.Second}, "longer than the lease"},
		"answer too long":    {prisma.RefreshSettings{Exchange: prisma.ExchangeTimeouts{Answer: 61 * time.Second}}, "longer than the lease"},
		"guard too long":     {prisma.RefreshSettings{SendGuard: 26 * time.Second}, "send guard"},
		"attempt too long":   {prisma.RefreshSettings{WriteAttempt: 2 * time.Minute}, "write attempt"},
		"negative":           {prisma.RefreshSettings{CallerWait: -1}, "caller wait must be positive"},
		"no waiters":         {prisma.RefreshSettings{Waiters: -1}, "waiters"},
		"no exchanges":       {prisma.RefreshSettings{Exchanges: -1}, "exchanges"},
		"shares turned":      {prisma.RefreshSettings{RefreshFrom: 0.9, RefreshTo: 0.8}, "life"},
		"share of all life":  {prisma.RefreshSettings{RefreshTo: 1}, "life"},
		"breaker never":      {prisma.RefreshSettings{BreakerAfter: -1}, "breaker"},
		"breaker shrinks":    {prisma.RefreshSettings{BreakerFrom: time.Minute}, "breaker pause"},
		"poll shrinks":       {prisma.RefreshSettings{PollTo: time.Millisecond}, "poll"},
		"late pauses shrink": {prisma.RefreshSettings{Late: prisma.LatePauses{From: 2 * time.Hour}}, "pause between late retries"},
		"two rules at once":  {prisma.RefreshSettings{Lease: time.Second, Exchanges: -1}, "exchanges"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tc.settings.Validate()
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("Validate() error has several lines: %v", err)
			}
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Validate() error = %v, want one with %q", err, tc.want)
			}
			_, err = prisma.NewRefresher(prisma.RefresherConfig{Exchanger: newAuthServer(0), Now: now, Settings: tc.settings})
			if (err == nil) != (tc.want == "") {
				t.Errorf("NewRefresher() error = %v", err)
			}
		})
	}
	if _, err := prisma.NewRefresher(prisma.RefresherConfig{}); err == nil {
		t.Error("NewRefresher() without exchanger and clock: no error")
	}
}
