package wire_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

func TestBaseURL(t *testing.T) {
	t.Parallel()
	for raw, ok := range map[string]bool{
		"https://api.prisma.io": true, "http://127.0.0.1:80/a/": true, "http://[::1]:80": true, "HTTPS://a": true,
		"http://localhost:1": true, "http://api.localhost": true, "http://api.prisma.io": false, "http://127.0.0.1.example.com": false,
		"": false, "api.prisma.io": false, "//api.prisma.io": false, "/v1": false, "ftp://a": false, "https:a": false,
		"https://u@a": false, "https://u:secret@a": false, "https://a?": false, "https://a?secret": false, "https://a#secret": false,
		"https://secret\x00": false, "https://a:secret": false, "https://%zz": false,
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			u, err := wire.BaseURL(raw, false)
			if (err == nil) != ok || ok && u == nil {
				t.Fatalf("BaseURL(%q) = %v, %v, want it accepted: %t", raw, u, err, ok)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the URL: %v", err)
			}
		})
	}
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	if u, err := wire.BaseURL("http://prisma.internal", true); err != nil || u.Host != "prisma.internal" {
		t.Errorf("BaseURL() with plain http allowed = %v, %v", u, err)
	}
}

func TestCause(t *testing.T) {
	t.Parallel()
	done, cancel := context.WithCancelCause(t.Context())
	own := errors.New("our own reason")
	cancel(own)
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	inURL := func(err error) error { return &url.Error{Op: "Get", URL: "http://secret", Err: err} }
	quoting := errors.New(`malformed HTTP response "secret"`)
	tests := map[string]struct {
		ctx  context.Context //nolint:containedctx // a case of the table
		err  error
		sent bool
		is   error
		text string
	}{
		"none":            {ctx: t.Context()},
		"cancelled":       {done, inURL(context.Canceled), true, own, "our own reason"},
		"without the URL": {t.Context(), inURL(reset), true, syscall.ECONNRESET, "read: connection reset by peer"},
		"cut off":         {t.Context(), inURL(fmt.Errorf("secret: %w", io.ErrUnexpectedEOF)), true, io.ErrUnexpectedEOF, "unexpected EOF"},
		"closed":          {t.Context(), inURL(io.EOF), true, io.EOF, "EOF"},
		"quoting":         {t.Context(), inURL(quoting), true, nil, "the answer is not valid HTTP"},
		"not sent":        {t.Context(), inURL(errors.New("no such host")), false, nil, "no such host"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := wire.Cause(tc.ctx, tc.err, tc.sent)
			if tc.err == nil {
				if got != nil {
					t.Errorf("Cause() = %v, want nil", got)
				}
				return
			}
			if got == nil || got.Error() != tc.text || tc.is != nil && !errors.Is(got, tc.is) {
				t.Errorf("Cause() = %v, want %s", got, tc.text)
			}
		})
	}
}

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for media, want := range map[string]bool{
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/problem+json": true,
		"": false, "text/html": false, "text/json": false, "application/jsonp": false, "application/json; =": false,
		"application/x-ndjson": false,
	} {
		if got := wire.IsJSON(http.Header{"Content-Type": {media}}); got != want {
			t.Errorf("IsJSON(%q) = %t, want %t", media, got, want)
		}
	}
	if wire.IsJSON(http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"br"}}) {
		t.Error("IsJSON() of a body that is still compressed = true")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const date = "Fri, 02 Jan 2026 03:04:05 GMT"
	tests := map[string]struct {
		value, date string
		want        time.Duration
	}{
		"none":             {"", date, 0},
		"seconds":          {"120", "", 2 * time.Minute},
		"fraction":         {"0.5", "", 500 * time.Millisecond},
		"zero":             {"0", "", 0},
		"negative":         {"-5", "", 0},
		"not a number":     {"NaN", "", 0},
		"endless":          {"Inf", "", time.Hour},
		"too large":        {"1e400", "", 0},
		"days":             {"99999999999", "", time.Hour},
		"words":            {"soon", date, 0},
		"date":             {"Fri, 02 Jan 2026 03:04:35 GMT", date, 30 * time.Second},
		"old date format":  {"Friday, 02-Jan-26 03:04:35 GMT", date, 30 * time.Second},
		"past date":        {"Fri, 02 Jan 2026 03:04:00 GMT", date, 0},
		"far date":         {"Fri, 02 Jan 2099 03:04:00 GMT", date, time.Hour},
		"date without now": {"Fri, 02 Jan 2026 03:04:35 GMT", "", 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := wire.RetryAfter(http.Header{"Retry-After": {tc.value}, "Date": {tc.date}}); got != tc.want {
				t.Errorf("RetryAfter() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	for code, ok := range map[string]bool{
		"resource-not-found": true, "invalid_grant": true, "P1001": true, "a.b": true, "app:already_exists": true, "": true,
		strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
		"a b": false, "a\nb": false, "é": false, "<b>": false, "a/b": false, `"`: false, "a\x00": false, "a@b": false, "a=b": false,
	} {
		want := ""
		if ok {
			want = code
		}
		if got := wire.Code(code); got != want {
			t.Errorf("Code(%q) = %q, want %q", code, got, want)
		}
	}
}

func TestKeepRedirect(t *testing.T) {
	t.Parallel()
	if err := wire.KeepRedirect(nil, nil); !errors.Is(err, http.ErrUseLastResponse) {
		t.Errorf("KeepRedirect() = %v, want http.ErrUseLastResponse", err)
	}
}
