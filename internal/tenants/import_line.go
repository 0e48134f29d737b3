package tenants

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// ImportLine is one token pair that a partner held before it came to this service.
type ImportLine struct {
	Number      int64 // names it in answers
	Tenant      TenantID
	UserID      string
	WorkspaceID string
	Access      string
	Refresh     string
	IssuedAt    time.Time // zero: unknown
	ExpiresAt   time.Time // of the access token; zero: unknown
}

// String shows no token.
func (l ImportLine) String() string { return "a line of " + l.Tenant.String() }

// GoString is String, so that %#v shows no token either.
func (l ImportLine) GoString() string { return l.String() }

// MaxImportLine is the longest line that is read, in bytes.
const MaxImportLine = 64 << 10

// Why a line is refused. The texts repeat nothing of it.
var (
	errLineTooLong    = errors.New("it is longer than 64 KiB")
	errLineNoObject   = errors.New("it is not one JSON object")
	errLineTwice      = errors.New("a field is there twice")
	errLineUnknown    = errors.New("it has a field that is not known; they are tenant, userId, workspaceId, accessToken, refreshToken, accessTokenExpiresAt")
	errLineText       = errors.New("a field is not a text")
	errLineTenant     = errors.New("tenant is no tenant id; `server tenant list` shows them")
	errLineUser       = errors.New("userId needs 1 to 255 printable characters")
	errLineWorkspace  = errors.New("workspaceId is no id of a workspace at Prisma")
	errLineTokens     = errors.New("accessToken or refreshToken is missing, or can't be a token")
	errLineSameTokens = errors.New("accessToken and refreshToken are the same")
	errLineExpiry     = errors.New("accessTokenExpiresAt is no time such as 2026-03-01T12:00:00Z")
	errLineClaim      = errors.New("the access token names another workspace than workspaceId")
)

// ParseImportLine reads a line: {"tenant", "userId", "workspaceId", "accessToken",
// "refreshToken", "accessTokenExpiresAt"?}, where fallback stands for a tenant that is
// not named. Without an expiry the token's own is taken, if it can be read. The error
// says what is wrong and repeats nothing of the line.
func ParseImportLine(raw []byte, fallback TenantID) (ImportLine, error) {
	if len(raw) > MaxImportLine {
		return ImportLine{}, errLineTooLong
	}
	fields, err := lineFields(raw)
	if err != nil {
		return ImportLine{}, err
	}
	l := ImportLine{
		Tenant: fallback, UserID: fields["userId"], WorkspaceID: fields["workspaceId"],
		Access: fields["accessToken"], Refresh: fields["refreshToken"],
	}
	if tenant, named := fields["tenant"]; named || fallback == (TenantID{}) {
		if l.Tenant, err = ParseTenantID(tenant); err != nil {
			return ImportLine{}, errLineTenant
		}
	}
	if text, given := fields["accessTokenExpiresAt"]; given {
		if l.ExpiresAt, err = time.Parse(time.RFC3339, text); err != nil || l.ExpiresAt.Year() < 2000 || l.ExpiresAt.Year() > 2999 {
			return ImportLine{}, errLineExpiry
		}
	}
	return l.checked()
}

// checked looks at the values, and takes from the access token what the line does not
// say.
func (l ImportLine) checked() (ImportLine, error) {
	switch {
	case !IsLabel(l.UserID, 255):
		return ImportLine{}, errLineUser
	case !prisma.UsableWorkspaceID(l.WorkspaceID):
		return ImportLine{}, errLineWorkspace
	case !prisma.UsablePair(l.Access, l.Refresh):
		return ImportLine{}, errLineTokens
	case l.Access == l.Refresh:
		return ImportLine{}, errLineSameTokens
	}
	claims, readable := prisma.ClaimsOf(l.Access)
	if !readable {
		return l, nil
	}
	if claims.WorkspaceID != "" && claims.WorkspaceID != l.WorkspaceID {
		return ImportLine{}, errLineClaim
	}
	l.IssuedAt = claims.IssuedAt
	if l.ExpiresAt.IsZero() {
		l.ExpiresAt = claims.ExpiresAt
	}
	return l, nil
}

// lineFields reads an object of texts, with each known name once at most.
func lineFields(raw []byte) (map[string]string, error) {
	known := map[string]bool{
		"tenant": true, "userId": true, "workspaceId": true, "accessToken": true, "refreshToken": true, "accessTokenExpiresAt": true,
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, errLineNoObject
	}
	fields := make(map[string]string, len(known))
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, errLineNoObject
		}
		key, _ := name.(string)
		if _, twice := fields[key]; twice {
			return nil, errLineTwice
		}
		if !known[key] {
			return nil, errLineUnknown
		}
		value, err := decoder.Token()
		if err != nil {
			return nil, errLineNoObject
		}
		text, isText := value.(string)
		if !isText {
			return nil, errLineText
		}
		fields[key] = text
	}
	if end, err := decoder.Token(); err != nil || end != json.Delim('}') {
		return nil, errLineNoObject
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) { // a bracket too many is an error as well
		return nil, errLineNoObject
	}
	return fields, nil
}
