package prisma

import (
	"encoding/base64"
	"errors"
	"strings"
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
	if len(accessToken) > maxTokenLength {
		return "", errUnreadableToken
	}
	_, rest, ok := strings.Cut(accessToken, ".")
	if !ok {
		return "", errUnreadableToken
	}
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return "", errUnreadableToken
	}
	claims, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return "", errUnreadableToken
	}
	fields, err := parseObject(claims, "workspace_id")
	if err != nil {
		return "", errUnreadableToken
	}
	id, ok := stringField(fields["workspace_id"])
	if !ok || !plausibleID(id) {
		return "", errUnreadableToken
	}
	return id, nil
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
