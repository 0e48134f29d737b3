package prisma

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// maxWorkspaceID is the longest workspace id that is believed, in bytes.
const maxWorkspaceID = 128

// errUnreadableToken says that an access token is not a JWT that names a workspace.
var errUnreadableToken = errors.New("prisma: the access token names no workspace that can be read")

// WorkspaceIDOf returns the workspace_id claim of a Prisma access token: 1 to 128
// letters, digits, '_' or '-'.
//
// The signature is not checked. The token is not proof of anything here: we are the
// client that it was issued to, it came from the token endpoint over TLS, and the API
// checks it on every call. So never use this on a token that a browser or a partner
// sent.
//
// The error says that the token can't be read and repeats nothing of it.
//
// Source: RFC 7519 section 3; Prisma's access tokens carry workspace_id.
func WorkspaceIDOf(accessToken string) (string, error) {
	fields, err := claimsOf(accessToken, "workspace_id")
	if err != nil {
		return "", err
	}
	id, ok := stringField(fields["workspace_id"])
	if !ok || !plausibleID(id) {
		return "", errUnreadableToken
	}
	return id, nil
}

// TokenClaims is what an access token says of itself, zero where it says nothing.
type TokenClaims struct {
	WorkspaceID string
	IssuedAt    time.Time
	ExpiresAt   time.Time
}

// ClaimsOf reads the claims of an access token as WorkspaceIDOf does, with the same
// trust: none. ok is false for a token that can't be read, as for an opaque one.
func ClaimsOf(accessToken string) (claims TokenClaims, ok bool) {
	fields, err := claimsOf(accessToken, "workspace_id", "iat", "exp")
	if err != nil {
		return TokenClaims{}, false
	}
	claims.WorkspaceID, _ = stringField(fields["workspace_id"])
	claims.IssuedAt, claims.ExpiresAt = numericDate(fields["iat"]), numericDate(fields["exp"])
	return claims, true
}

// numericDate reads seconds since 1970 within this century; zero otherwise.
func numericDate(raw json.RawMessage) time.Time {
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || seconds <= 0 || seconds > 4e9 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// UsablePair reports whether both tokens are there, short enough and printable, so
// that they can break neither a header nor a form.
func UsablePair(access, refresh string) bool {
	return access != "" && refresh != "" && printable(access, '!') && printable(refresh, ' ')
}

// UsableWorkspaceID reports whether id can be a workspace's at Prisma.
func UsableWorkspaceID(id string) bool { return plausibleID(id) }

// claimsOf returns those claims of a JWT.
func claimsOf(accessToken string, names ...string) (map[string]json.RawMessage, error) {
	if len(accessToken) > maxTokenLength {
		return nil, errUnreadableToken
	}
	_, rest, ok := strings.Cut(accessToken, ".")
	if !ok {
		return nil, errUnreadableToken
	}
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return nil, errUnreadableToken
	}
	claims, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return nil, errUnreadableToken
	}
	fields, err := parseObject(claims, names...)
	if err != nil {
		return nil, errUnreadableToken
	}
	return fields, nil
}

// plausibleID reports whether id is short and free of anything that could change the
// meaning of a URL, a log line or a page.
func plausibleID(id string) bool {
	if id == "" || len(id) > maxWorkspaceID {
		return false
	}
	for _, c := range []byte(id) {
		if !isAlphanumeric(c) && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
