package tenants

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// The bounds of a connection's metadata, in characters.
const (
	MetadataPairs = 20
	MetadataName  = 40
	MetadataValue = 500
)

// ChangeMetadata merges pairs into a connection's metadata: a value replaces that name's,
// nil removes it, and names that are not mentioned stay. fault.InvalidValue when a pair
// can't be kept or too many would be, fault.NotFound as Connection. Nothing else writes
// the column: token saves and reconnects leave it as it is.
func (s *Store) ChangeMetadata(ctx context.Context, by Actor, tenant TenantID, id ConnectionID, pairs map[string]*string,
) (Connection, error) {
	if err := checkMetadata(pairs); err != nil {
		return Connection{}, err
	}
	var c Connection
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		var err error
		if c, err = connectionRow(ctx, tx, tenant, id, "FOR NO KEY UPDATE"); err != nil {
			return err
		}
		merged := mergeMetadata(c.Metadata, pairs)
		if maps.Equal(merged, c.Metadata) {
			return nil
		}
		if len(merged) > MetadataPairs {
			return fault.New(fault.InvalidValue, "The connection would have too much metadata.", nil).
				WithField("/metadata", fmt.Sprintf("Keep at most %d names; null removes one.", MetadataPairs))
		}
		c.Metadata = merged
		_, err = tx.Exec(ctx, `
			UPDATE connections SET metadata = $3, updated_at = app.now() WHERE tenant_id = $1 AND id = $2`, tenant, id, merged)
		if err != nil {
			return fmt.Errorf("write metadata: %w", err)
		}
		// Names and values are the partner's own affair.
		return s.record(ctx, tx, tenant, by, change{action: auditConnectionUpdated, target: id.String()})
	})
	return c, err
}

func mergeMetadata(old map[string]string, pairs map[string]*string) map[string]string {
	merged := make(map[string]string, len(old)+len(pairs))
	maps.Copy(merged, old)
	for name, value := range pairs {
		if value == nil {
			delete(merged, name)
		} else {
			merged[name] = *value
		}
	}
	return merged
}

// checkMetadata refuses what can't be a pair. It names the rule and no name: those are
// the caller's input.
func checkMetadata(pairs map[string]*string) error {
	bad := fault.New(fault.InvalidValue, "The metadata has values that can't be used.", nil)
	var badName, badValue bool
	for name, value := range pairs {
		badName = badName || !isMetadataName(name)
		badValue = badValue || value != nil && !isMetadataValue(*value)
	}
	if badName {
		bad = bad.WithField("/metadata", fmt.Sprintf("Use names of 1 to %d letters, digits, dots, hyphens and underscores.", MetadataName))
	}
	if badValue {
		bad = bad.WithField("/metadata", fmt.Sprintf("Use values of at most %d characters, without control characters.", MetadataValue))
	}
	if len(pairs) > 2*MetadataPairs { // as many as may be removed and set together
		bad = bad.WithField("/metadata", fmt.Sprintf("Change at most %d names at once.", 2*MetadataPairs))
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}

func isMetadataName(name string) bool {
	return name != "" && len(name) <= MetadataName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}

func isMetadataValue(value string) bool {
	return utf8.ValidString(value) && utf8.RuneCountInString(value) <= MetadataValue && !strings.ContainsFunc(value, unicode.IsControl)
}
