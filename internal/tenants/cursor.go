package tenants

import (
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
)

const (
	cursorPurpose = "cursor"
	cursorMAC     = 16
)

// Cursor returns the text that leads to the page behind last. It holds for that
// tenant and filter alone, and can't be edited: list names the list with its
// filter.
func (s *Store) Cursor(tenant TenantID, list string, last ConnectionID) (string, error) {
	mac, err := s.keyset.Fingerprint(cursorPurpose, cursorText(tenant, list, last))
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append(last.UUID[:], mac[:cursorMAC]...)), nil
}

// ParseCursor reads what Cursor returned for the same tenant and list; "" is the
// first page. Anything else is a fault.InvalidRequest.
func (s *Store) ParseCursor(tenant TenantID, list, cursor string) (ConnectionID, error) {
	if cursor == "" {
		return ConnectionID{}, nil
	}
	refused := fault.New(fault.InvalidRequest, "The cursor does not belong to this list.", nil).
		WithField("cursor", "Use the nextCursor of the page before, with the same filters.")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	// Line breaks, which the decoder skips, would be another spelling.
	if err != nil || strings.ContainsAny(cursor, "\r\n") || len(raw) != len(uuid.UUID{})+cursorMAC {
		return ConnectionID{}, refused
	}
	last := ConnectionID{uuid.UUID(raw[:16])}
	macs, err := s.keyset.Fingerprints(cursorPurpose, cursorText(tenant, list, last))
	if err != nil {
		return ConnectionID{}, err
	}
	same := 0
	for _, mac := range macs {
		same |= subtle.ConstantTimeCompare(mac[:cursorMAC], raw[16:])
	}
	if same != 1 {
		return ConnectionID{}, refused
	}
	return last, nil
}

func cursorText(tenant TenantID, list string, last ConnectionID) string {
	return tenant.String() + "\n" + last.String() + "\n" + list
}
