package managementapi

import (
	"fmt"
	"log/slog"
	"strings"
	"unique"
)

// hidden is what a secret looks like when it is printed.
const hidden = "[secret]"

// Secret is a value that opens something: a connection string, a password, the value of
// a token. It shows itself only when asked to (Reveal). Printed, logged or encoded as
// JSON it is "[secret]", so that a struct which holds one can go into a log; the empty
// one stays empty. Two are equal (==) if their values are.
type Secret struct {
	// Not a string: where fmt does not ask a value how it wants to be printed, as in an
	// unexported field or for a verb that does not fit, it prints the address of this.
	value unique.Handle[string]
}

// NewSecret returns a Secret of the value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: unique.Make(value)}
}

// Reveal returns the value.
func (s Secret) Reveal() string {
	if s == (Secret{}) {
		return ""
	}
	return s.value.Value()
}

// Equal reports whether the values are the same, as == does; for comparers that look
// into structs.
func (s Secret) Equal(other Secret) bool { return s == other }

// String hides the value.
func (s Secret) String() string {
	if s == (Secret{}) {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// Format hides the value from every verb of package fmt.
func (s Secret) Format(state fmt.State, verb rune) {
	formatAs(state, verb, s.String())
}

// LogValue hides the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the value from JSON and other encodings.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the value.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// SentSecret is a secret in the body of a request, such as the recipient's access token
// of a transfer. Printed or logged it is hidden; encoded as JSON it is itself, because
// that is how it is sent.
type SentSecret string

// String hides the value.
func (s SentSecret) String() string { return NewSecret(string(s)).String() }

// GoString hides the value from %#v.
func (s SentSecret) GoString() string { return NewSecret(string(s)).GoString() }

// Format hides the value from every verb of package fmt: for one that does not fit a
// string, such as %d, fmt would not ask String.
func (s SentSecret) Format(state fmt.State, verb rune) { formatAs(state, verb, s.String()) }

// LogValue hides the value.
func (s SentSecret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// A request's secret is itself in JSON, and a JSON log encodes what it is given: the
// requests that hold one log their name alone.

// LogValue hides the request.
func (CreateEnvironmentVariableRequest) LogValue() slog.Value {
	return slog.StringValue("CreateEnvironmentVariableRequest")
}

// LogValue hides the request.
func (UpdateEnvironmentVariableRequest) LogValue() slog.Value {
	return slog.StringValue("UpdateEnvironmentVariableRequest")
}

// LogValue hides the request.
func (ExchangeGithubActionsTokenRequest) LogValue() slog.Value {
	return slog.StringValue("ExchangeGithubActionsTokenRequest")
}

// LogValue hides the request.
func (TransferProjectRequest) LogValue() slog.Value {
	return slog.StringValue("TransferProjectRequest")
}

// formatAs prints text in place of a value, as %s where the verb does not fit a string.
func formatAs(state fmt.State, verb rune, text string) {
	if !strings.ContainsRune("vsqxX", verb) {
		verb = 's'
	}
	_, _ = fmt.Fprintf(state, fmt.FormatString(state, verb), text)
}
