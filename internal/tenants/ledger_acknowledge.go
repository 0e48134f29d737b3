package tenants

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// What is missing or was altered stays so, and VerifyLedger finds it for ever. Once people
// have looked into it, they say so in the log of the admins, whose MACs nobody can make who
// only holds the database: from then on that finding, and no other, is reported as
// acknowledged. Nothing is repaired or deleted.

const adminAcknowledged = "ledger.acknowledged"

// reasonLimit bounds an acknowledgement's reason, in characters.
const reasonLimit = 500

// Acknowledgement says that people know of a finding.
type Acknowledgement struct {
	By     string // who said so
	At     time.Time
	Reason string
}

// ID names what was found where: the same finding has it in each run, another one never.
func (f LedgerFinding) ID() string {
	sum := sha256.New()
	for _, part := range []string{
		f.Tenant.UUID.String(), f.Connection.UUID.String(), fmt.Sprint(f.Checkpoint, f.Sequence), f.Log, f.What,
	} {
		_, _ = fmt.Fprintf(sum, "%d:%s", len(part), part) // a hash takes everything
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// AcknowledgeFinding writes that people know of a finding, and why it is there. text is
// the finding as they saw it.
func (s *Store) AcknowledgeFinding(ctx context.Context, by Actor, f LedgerFinding, text, reason string) error {
	if !IsLabel(reason, reasonLimit) {
		return fault.New(fault.InvalidValue, fmt.Sprintf("The reason needs 1 to %d printable characters.", reasonLimit), nil)
	}
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		return s.logAdmin(ctx, tx, by, adminChange{
			action: adminAcknowledged, target: f.ID(), details: map[string]any{"finding": text, "reason": reason},
		})
	})
}

// readAcknowledged reads which findings people know of. Only rows count that prove
// themselves: one that follows a gap does not, and has to be said again.
func (v *verifier) readAcknowledged(ctx context.Context, tx pgx.Tx) error {
	v.acknowledged = map[string]Acknowledgement{}
	r := &adminReplay{auditReplay: &auditReplay{keyset: v.store.keyset, report: func(int64, string) {}}} // it is told later
	err := eachAdminRow(ctx, tx, `WHERE chained IS NULL ORDER BY at, id`, func(row adminRow) { r.unchained = append(r.unchained, row) })
	if err != nil {
		return err
	}
	return eachAdminRow(ctx, tx, `WHERE chained IS NOT NULL ORDER BY chained`, func(row adminRow) {
		r.row(row)
		var said struct{ By, Reason string }
		if row.action != adminAcknowledged || !r.proven || json.Unmarshal([]byte(row.details), &said) != nil {
			return
		}
		v.acknowledged[row.target] = Acknowledgement{By: said.By, At: row.at, Reason: said.Reason}
	})
}

func (v *verifier) find(f LedgerFinding) {
	if known, ok := v.acknowledged[f.ID()]; ok {
		f.Acknowledged = &known
		v.summary.Acknowledged++
	} else {
		v.summary.Findings++
	}
	v.report(f)
}
