package redact_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/redact"
)

func TestSecretsDoNotReachTheLog(t *testing.T) {
	t.Parallel()

	const canary = "canary5canary5canary5canary5"
	lines := map[string]slog.Attr{
		"API key":           slog.String("detail", "key cpk_"+canary+" is bad"),
		"JWT":               slog.String("detail", "got eyJ"+canary+".eyJ"+canary+"."+canary),
		"bearer":            slog.String("detail", "Authorization: Bearer "+canary),
		"URL password":      slog.Any("error", errors.New("dial postgres://app:"+canary+"@127.0.0.1:5432/db")),
		"query":             slog.String("url", "/oauth/callback?state=cs_a."+canary+"&code="+canary),
		"form":              slog.String("body", "grant_type=refresh_token&refresh_token="+canary+"&client_secret="+canary),
		"link":              slog.String("path", "/connect/"+canary),
		"named secret":      slog.String("client_secret", canary),
		"named token":       slog.String("token", canary),
		"connection string": slog.String("connection_string", canary),
		"DSN":               slog.String("dsn", "host=127.0.0.1 password="+canary+" user=x"),
	}
	for name, attr := range lines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: redact.New().Attr})).Info("line", attr)
			if strings.Contains(out.String(), canary) {
				t.Errorf("the canary is in the log: %s", out.String())
			}
			if !strings.Contains(out.String(), redact.Mark) {
				t.Errorf("nothing marks the place: %s", out.String())
			}
		})
	}
}

func TestOrdinaryTextStays(t *testing.T) {
	t.Parallel()

	for _, text := range []string{
		"/v1/connections/:connection/projects", "cs_abcdefghijklmnopqrstuvwxyz", "403 operation-not-allowed",
		"http://127.0.0.1:8081/authorize", "state machine",
	} {
		if got := redact.New().Text(text); got != text {
			t.Errorf("Text(%q) = %q", text, got)
		}
	}
}
