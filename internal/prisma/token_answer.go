package prisma

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of a token response.
const (
	maxTokenLength = 16 << 10 // bytes; a longer one would not fit request headers

	minTokenLife     = time.Minute
	maxTokenLife     = 24 * time.Hour
	defaultTokenLife = time.Hour // when the answer does not say

	maxErrorCode = 64
)

// Grant is a successful token response. Printing or logging it shows no token.
type Grant struct {
	// Access and Refresh are the pair. Refresh is "" when the grant came without
	// offline_access. Access is "" when Refresh is all that could be read of an answer to
	// a refresh: the presented token is used up, and this is the one to use.
	Access, Refresh string

	// WorkspaceID is the access token's workspace_id claim, "" when it can't be read.
	WorkspaceID string

	// ExpiresIn is the access token's life, counted from when the request was begun:
	// the answer's expires_in, kept between a minute and a day; an hour without one.
	ExpiresIn time.Duration

	// Scope is what was granted, "" when the answer does not say (then it is what was
	// asked for).
	Scope string

	// Rotated is false when Refresh kept the token that it presented.
	Rotated bool
}

// String describes the grant without its tokens.
func (g Grant) String() string {
	return fmt.Sprintf("grant of %s for %s", g.WorkspaceID, g.ExpiresIn)
}

// GoString is String, so that %#v shows no secret either.
func (g Grant) GoString() string { return g.String() }

// LogValue describes the grant without its tokens.
func (g Grant) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("workspace_id", g.WorkspaceID),
		slog.Duration("expires_in", g.ExpiresIn),
		slog.Bool("rotated", g.Rotated),
	)
}

// Tokens returns the grant as a pair whose life began at issued, by the storage's
// clock.
func (g Grant) Tokens(issued time.Time) Tokens {
	return Tokens{
		WorkspaceID: g.WorkspaceID,
		Access:      g.Access,
		Refresh:     g.Refresh,
		IssuedAt:    issued,
		ExpiresAt:   issued.Add(g.ExpiresIn),
		ReadAt:      issued,
	}
}

// parseTokenResponse reads the body of a successful answer. Only what makes the refresh
// token unusable is an error; an odd access token, lifetime, scope or token_type must not
// cost the user the only live one.
//
// So must not an answer that breaks off: a refresh token whose closing quote has come is
// the whole token. Without one the answer says nothing, since it might have followed.
func parseTokenResponse(body []byte) (Grant, error) {
	fields, cut, err := readMembers(body, "access_token", "refresh_token")
	if err != nil {
		return Grant{}, errUnusableAnswer
	}
	odd, _, err := readMembers(body, "expires_in", "scope")
	if err != nil {
		odd = nil // given twice: as if they were not there
	}
	refresh, ok := stringField(fields["refresh_token"])
	if !ok || !printable(refresh, ' ') {
		return Grant{}, errUnusableAnswer
	}
	access, ok := stringField(fields["access_token"])
	if !ok || !printable(access, '!') {
		access = ""
	}
	if refresh == "" && (cut || access == "") {
		return Grant{}, errUnusableAnswer
	}
	scope, _ := stringField(odd["scope"])
	workspace, err := WorkspaceIDOf(access)
	if err != nil {
		workspace = ""
	}
	return Grant{
		Access:      access,
		Refresh:     refresh,
		WorkspaceID: workspace,
		ExpiresIn:   parseExpiresIn(odd["expires_in"]),
		Scope:       scope,
	}, nil
}

// parseOAuthErrorCode returns the error member of an OAuth error body, "" if there is
// none that looks like a code.
func parseOAuthErrorCode(body []byte) string {
	fields, err := parseObject(body, "error")
	if err != nil {
		return ""
	}
	code, _ := stringField(fields["error"])
	return cleanCode(code)
}

// cleanCode returns code if it is short and made of letters, digits, '_', '-' and '.',
// so that it may go into logs, and "" otherwise.
func cleanCode(code string) string {
	if len(code) > maxErrorCode {
		return ""
	}
	for _, c := range []byte(code) {
		if !isAlphanumeric(c) && c != '_' && c != '-' && c != '.' {
			return ""
		}
	}
	return code
}

// parseObject reads exactly one JSON object, as readMembers does.
func parseObject(body []byte, names ...string) (map[string]json.RawMessage, error) {
	members, cut, err := readMembers(body, names...)
	if err != nil || cut {
		return nil, errUnusableAnswer
	}
	return members, nil
}

// readMembers reads one JSON object and returns the members of the given names, which
// are matched exactly. A doubled one of them is an error, since two readers could take
// different values, and so is one that is not UTF-8; other members may be anything.
//
// cut says that the object breaks off before its end, and is none otherwise wrong: then
// the members are those that had come whole. What follows an object is an error.
func readMembers(body []byte, names ...string) (members map[string]json.RawMessage, cut bool, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, false, errUnusableAnswer
	}
	members = make(map[string]json.RawMessage, len(names))
	for _, name := range names {
		members[name] = nil
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return unfinished(members, err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return unfinished(members, err)
		}
		name, _ := key.(string)
		previous, known := members[name]
		if !known || value[0] != '"' && dec.InputOffset() == int64(len(body)) { // 36 may have become 3600
			continue
		}
		if previous != nil || !utf8.Valid(value) {
			return nil, false, errUnusableAnswer
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return unfinished(members, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, false, errUnusableAnswer
	}
	return members, false, nil
}

// unfinished is what readMembers returns if it could not read on: an object that breaks
// off is no error, and one that is wrong is.
func unfinished(members map[string]json.RawMessage, err error) (map[string]json.RawMessage, bool, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return members, true, nil
	}
	return nil, false, errUnusableAnswer
}

// stringField reads a member that is a string, null or absent; the last two give "".
func stringField(raw json.RawMessage) (string, bool) {
	if raw == nil {
		return "", true
	}
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil {
		return "", false
	}
	if value == nil {
		return "", true
	}
	return *value, true
}

// printable reports whether a token is short enough and made of ASCII from lowest
// to '~' only, so that it can break neither a header nor a form.
//
// Source: RFC 6749 appendix A.12 and A.17.
func printable(token string, lowest byte) bool {
	if len(token) > maxTokenLength {
		return false
	}
	for _, c := range []byte(token) {
		if c < lowest || c > '~' {
			return false
		}
	}
	return true
}

// parseExpiresIn reads a lifetime in seconds, a JSON number or a string that holds
// one, and keeps it between a minute and a day. What can't be read gives an hour:
// refusing the answer for it would lose the pair.
func parseExpiresIn(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || math.IsNaN(seconds) {
		return defaultTokenLife
	}
	seconds = min(max(seconds, minTokenLife.Seconds()), maxTokenLife.Seconds())
	return time.Duration(seconds * float64(time.Second))
}

// isAlphanumeric reports whether c is an ASCII letter or digit.
func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
