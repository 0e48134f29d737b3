// Package redact keeps secrets out of the log, whatever a message or an upstream
// error brought along. It is the second line: nothing should log a secret in the
// first place.
package redact

import (
	"log/slog"
	"regexp"
	"strings"
)

// Mark stands where a secret was.
const Mark = "[redacted]"

// Redactor replaces what looks like a secret. It is safe for concurrent use.
type Redactor struct {
	patterns []*regexp.Regexp
}

// New returns a Redactor for the secrets of this service: API keys, bearer and
// JSON web tokens, passwords in URLs, OAuth parameters, one-time links.
func New() *Redactor {
	return &Redactor{patterns: []*regexp.Regexp{
		regexp.MustCompile(`(cpk_)[a-z2-7_]{8,}`),
		regexp.MustCompile(`(eyJ)[A-Za-z0-9_=-]{8,}(?:\.[A-Za-z0-9_=-]*){0,2}`),
		regexp.MustCompile(`((?i)\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`),
		regexp.MustCompile(`(://[^\s:/@]*:)[^\s@]+@`),
		regexp.MustCompile(`((?i)\b(?:password|code|state|completionCode|access_token|refresh_token|client_secret|code_verifier|token)=)[^\s&"']{6,}`),
		regexp.MustCompile(`(/(?:connect|claim)/)[A-Za-z0-9_-]{20,}`),
	}}
}

// Text returns text without what looks like a secret.
func (r *Redactor) Text(text string) string {
	for _, pattern := range r.patterns {
		text = pattern.ReplaceAllString(text, "${1}"+Mark)
	}
	return text
}

// Attr is a slog.HandlerOptions.ReplaceAttr: it redacts strings and errors, and
// drops the value of any attribute whose name says that it is a secret.
func (r *Redactor) Attr(_ []string, attr slog.Attr) slog.Attr {
	if secretName(attr.Key) {
		return slog.String(attr.Key, Mark)
	}
	if attr.Value.Kind() == slog.KindString {
		return slog.String(attr.Key, r.Text(attr.Value.String()))
	}
	if err, ok := attr.Value.Any().(error); ok {
		return slog.String(attr.Key, r.Text(err.Error()))
	}
	return attr
}

func secretName(key string) bool {
	key = strings.ToLower(key)
	for _, part := range []string{"password", "secret", "authorization", "cookie", "access_token", "refresh_token", "connection_string", "api_key"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	return key == "token" || key == "code" || key == "state" || key == "verifier"
}
