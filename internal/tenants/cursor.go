package tenants

import (
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"

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
	return s.markedCursor(last.UUID[:], cursorText(tenant, list, last))
}

// ParseCursor reads what Cursor returned for the same tenant and list; "" is the
// first page. Anything else is a fault.InvalidRequest.
func (s *Store) ParseCursor(tenant TenantID, list, cursor string) (ConnectionID, error) {
	if cursor == "" {
		return ConnectionID{}, nil
	}
	place, mark, err := splitCursor(cursor)
	if err != nil {
		return ConnectionID{}, err
	}
	last := ConnectionID{}
	if len(place) != len(last.UUID) {
		return ConnectionID{}, errCursor()
	}
	copy(last.UUID[:], place)
	if err := s.checkCursor(mark, cursorText(tenant, list, last)); err != nil {
		return ConnectionID{}, err
	}
	return last, nil
}

// PrismaCursor is Cursor for a list that Prisma pages, where cursor is Prisma's own: it
// says nothing of whose list it belongs to.
func (s *Store) PrismaCursor(tenant TenantID, list, cursor string) (string, error) {
	return s.markedCursor([]byte(cursor), prismaCursorText(tenant, list, cursor))
}

// ParsePrismaCursor returns Prisma's own cursor of what PrismaCursor returned for the same
// tenant and list; "" is the first page. Anything else is a fault.InvalidRequest.
func (s *Store) ParsePrismaCursor(tenant TenantID, list, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	place, mark, err := splitCursor(cursor)
	if err != nil {
		return "", err
	}
	if err := s.checkCursor(mark, prismaCursorText(tenant, list, string(place))); err != nil {
		return "", err
	}
	return string(place), nil
}

// markedCursor is a place with a mark that holds for text alone.
func (s *Store) markedCursor(place []byte, text string) (string, error) {
	mark, err := s.keyset.Fingerprint(cursorPurpose, text)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(slices.Concat(place, mark[:cursorMAC])), nil
}

// checkCursor refuses a mark that was not made for text.
func (s *Store) checkCursor(mark []byte, text string) error {
	marks, err := s.keyset.Fingerprints(cursorPurpose, text)
	if err != nil {
		return err
	}
	same := 0
	for _, one := range marks {
		same |= subtle.ConstantTimeCompare(one[:cursorMAC], mark)
	}
	if same != 1 {
		return errCursor()
	}
	return nil
}

// splitCursor takes a cursor apart, in its one spelling.
func splitCursor(cursor string) (place, mark []byte, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	// Line breaks, which the decoder skips, would be another spelling.
	if err != nil || strings.ContainsAny(cursor, "\r\n") || len(raw) <= cursorMAC {
		return nil, nil, errCursor()
	}
	return raw[:len(raw)-cursorMAC], raw[len(raw)-cursorMAC:], nil
}

func errCursor() error {
	return fault.New(fault.InvalidRequest, "The cursor does not belong to this list.", nil).
		WithField("cursor", "Use the nextCursor of the page before, with the same filters.")
}

func cursorText(tenant TenantID, list string, last ConnectionID) string {
	return tenant.String() + "\n" + last.String() + "\n" + list
}

// prismaCursorText has an empty line where cursorText has an id, so that neither passes for
// the other. A list's name has no line break.
func prismaCursorText(tenant TenantID, list, cursor string) string {
	return tenant.String() + "\n\n" + list + "\n" + cursor
}
