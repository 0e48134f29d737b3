package tenants

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/sealing"
)

const (
	// upgradeTime is how long after the first row with a MAC there may be new ones
	// without: as long as an upgrade to this version takes, and going back from it.
	upgradeTime = 7 * 24 * time.Hour
	// auditDisorder is how much earlier than the row before it a row may have begun:
	// rows bear the time of their transaction's begin, and stand in the order of commits.
	auditDisorder = time.Hour
)

// audit verifies the audit log and, in a run over everything, the log of the admins.
func (v *verifier) audit(ctx context.Context, tx pgx.Tx) error {
	if v.check.Connection.UUID != uuid.Nil {
		return nil
	}
	a := &auditVerifier{verifier: v}
	err := tx.QueryRow(ctx, `
		SELECT app.now(), coalesce(least((SELECT min(at) FROM audit_log WHERE mac IS NOT NULL),
			(SELECT min(at) FROM admin_log WHERE mac IS NOT NULL)), app.now()) + $1::interval`, upgradeTime).Scan(&a.now, &a.upgradedBy)
	if err != nil {
		return fmt.Errorf("find the begin of the audit chains: %w", err)
	}
	if err := a.readHeads(ctx, tx); err != nil {
		return err
	}
	if err := a.readEntries(ctx, tx); err != nil {
		return err
	}
	if err := a.tenants(ctx, tx); err != nil {
		return err
	}
	if !v.summary.WholeLedger {
		return nil
	}
	return a.admins(ctx, tx)
}

// auditVerifier is one run over the audit logs.
type auditVerifier struct {
	*verifier

	now        time.Time
	upgradedBy time.Time // later rows have a MAC, and all before are covered by one
	heads      map[TenantID]auditHead
	entries    map[TenantID][]checkpointEntry
}

func (a *auditVerifier) readHeads(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT tenant_id, audit, audit_chained, audit_head, audit_seal FROM tenant_sequences
		WHERE $1::uuid IS NULL OR tenant_id = $1`, nullID(a.check.Tenant.UUID))
	if err != nil {
		return fmt.Errorf("read audit heads: %w", err)
	}
	a.heads = map[TenantID]auditHead{}
	var tenant TenantID
	var h auditHead
	_, err = pgx.ForEachRow(rows, []any{&tenant, &h.audit, &h.chained, &h.mac, &h.seal}, func() error {
		a.heads[tenant] = h
		h = auditHead{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read audit heads: %w", err)
	}
	return nil
}

// readEntries reads what checkpoints saw of the audit logs.
func (a *auditVerifier) readEntries(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT tenant_id, connection_id, count, head FROM ledger_checkpoint_entries
		WHERE connection_id = $1 AND ($2::uuid IS NULL OR tenant_id = $2) ORDER BY tenant_id, count`,
		uuid.Nil, nullID(a.check.Tenant.UUID))
	if err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanCheckpointEntry)
	if err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	a.entries = map[TenantID][]checkpointEntry{}
	for _, e := range list {
		a.entries[e.tenant] = append(a.entries[e.tenant], e)
	}
	return nil
}

// tenants goes through the audit log, tenant by tenant.
func (a *auditVerifier) tenants(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT tenant_id, `+auditColumns+` FROM audit_log
		WHERE $1::uuid IS NULL OR tenant_id = $1 ORDER BY tenant_id, sequence`, nullID(a.check.Tenant.UUID))
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	var tenant TenantID
	var row auditRow
	var r *auditReplay
	_, err = pgx.ForEachRow(rows, append([]any{&tenant}, row.targets()...), func() error {
		if r == nil || r.tenant != tenant {
			a.finish(r)
			r = a.replay(tenant, AuditLog)
		}
		r.next(row)
		row = auditRow{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	a.finish(r)
	for tenant, head := range a.heads { // those without a row
		r := a.replay(tenant, AuditLog)
		if head.audit == 0 {
			r.report(0, "the tenant's log is empty, and a tenant is made with its first row")
		}
		a.finish(r)
	}
	for tenant := range a.entries {
		if tenant.UUID != uuid.Nil {
			a.find(LedgerFinding{Tenant: tenant, Log: AuditLog, What: "a checkpoint knows the tenant's audit log, and its rows are gone"})
		}
	}
	return nil
}

func (a *auditVerifier) replay(tenant TenantID, log string) *auditReplay {
	r := &auditReplay{
		tenant: tenant, keyset: a.store.keyset, now: a.now, upgradedBy: a.upgradedBy, entries: a.entries[tenant],
		report: func(sequence int64, what string) {
			a.find(LedgerFinding{Tenant: tenant, Sequence: sequence, Log: log, What: what})
		},
	}
	delete(a.entries, tenant)
	return r
}

// finish compares the end of a tenant's log with its sequence row.
func (a *auditVerifier) finish(r *auditReplay) {
	if r == nil {
		return
	}
	head, known := a.heads[r.tenant]
	delete(a.heads, r.tenant)
	switch {
	case !known:
		r.report(0, "the tenant's sequence row is gone")
	case head.audit != r.sequence:
		r.report(0, fmt.Sprintf("the tenant counts %d rows, and its log ends at %d", head.audit, r.sequence))
	}
	a.end(r, head.end(r.tenant), head, known)
}

// end of the chain as the tenant's sequence row has it.
func (h *auditHead) end(tenant TenantID) sealedEnd {
	return sealedEnd{row: "the tenant's sequence row", purpose: auditHeadPurpose, message: h.sealMessage(tenant), seal: h.seal}
}

// end compares the end of a chain with its head and with the checkpoints.
func (a *auditVerifier) end(r *auditReplay, end sealedEnd, head auditHead, known bool) {
	r.missing(0)
	r.uncovered(a.now)
	if known && (head.chained != r.chained || !bytes.Equal(head.mac, r.head)) {
		r.report(0, fmt.Sprintf("the chain should end with another MAC, at row %d; it does at %d", head.chained, r.chained))
	}
	if wrong := end.check(a.store.keyset, r.sealed); known && wrong != "" {
		r.report(0, wrong)
	}
	if left := r.entries; len(left) > 0 {
		r.report(left[len(left)-1].count, "a checkpoint saw the log until here, and it ends before")
	}
	sum := &a.summary.Audit
	sum.Chains += min(r.rows, 1)
	sum.Rows += r.rows
	sum.Covered += r.covered
	sum.Uncovered += r.pending.rows
	if r.chained > 0 && !r.sealed {
		sum.Unsealed++
	}
}

// auditReplay goes through one chain of an audit log and reports what does not fit.
type auditReplay struct {
	tenant     TenantID
	keyset     *sealing.Keyset
	now        time.Time
	upgradedBy time.Time
	report     func(sequence int64, what string)

	rows     int64
	covered  int64
	sequence int64     // of the last row
	chained  int64     // of the last row with a MAC
	head     []byte    // its MAC
	proven   bool      // it is genuine, and so is what it rests on
	sealed   bool      // whoever wrote it sealed the end of the chain
	at       time.Time // its time
	gaps     []gap     // rows that are missing since the last MAC, which the next may rest on
	pending  coverage  // the rows without a MAC since
	first    int64     // the first of them
	late     bool      // it was reported that there is one too late
	entries  []checkpointEntry
}

// next takes the next row of a tenant's log.
func (r *auditReplay) next(row auditRow) {
	r.rows++
	if row.sequence <= r.sequence {
		r.report(row.sequence, "the row is there twice")
		return
	}
	r.skip(row.sequence)
	r.sequence = row.sequence
	if row.mac == nil {
		if row.key != nil || row.sealed {
			r.report(row.sequence, "the row was altered: it has what belongs to a MAC, and no MAC")
		}
		r.unsigned(row.sequence, row.at, row.fields())
		return
	}
	canonical, err := canonicalDetails(row.details)
	if err == nil {
		row.details = canonical
	}
	r.signed(row.sequence, row.at, row.mac, row.key, auditRowPurpose, row.message(r.tenant, r.head, &r.pending))
	r.sealed = row.sealed
}

// gap is a run of rows that are missing.
type gap struct{ first, last int64 }

// skip notes which rows are missing before that one.
func (r *auditReplay) skip(before int64) {
	if before > r.sequence+1 {
		r.gaps = append(r.gaps, gap{r.sequence + 1, before - 1})
	}
}

// missing reports the rows that are missing since the last MAC. since is the row that was
// signed without them; 0: there is none, or it rests on them.
func (r *auditReplay) missing(since int64) {
	for _, g := range r.gaps {
		what := "the row is missing"
		if g.last > g.first {
			what = fmt.Sprintf("the rows until %d are missing", g.last)
		}
		if since > 0 {
			what += fmt.Sprintf(": they were already when row %d was signed over what there was", since)
		}
		r.report(g.first, what)
	}
	r.gaps = nil
}

// unsigned takes a row without a MAC.
func (r *auditReplay) unsigned(sequence int64, at time.Time, fields [][]byte) {
	r.hold(sequence, fields)
	if at.After(r.upgradedBy) {
		r.late = true
		r.report(sequence, "the row has no MAC, long after the upgrade to a version that writes one")
	} else if at.Before(r.at.Add(-auditDisorder)) {
		r.late = true
		r.report(sequence, "the row has no MAC, and an earlier time than the row before it")
	}
}

// hold keeps a row without a MAC for the one that covers it.
func (r *auditReplay) hold(sequence int64, fields [][]byte) {
	if r.pending.rows == 0 {
		r.first, r.late = sequence, false
	}
	r.pending.add(fields)
}

// uncovered reports rows without a MAC that nothing had covered at a time when all of an
// upgrade is: whoever puts a row in chooses its time, and not that.
func (r *auditReplay) uncovered(at time.Time) {
	if r.pending.rows > 0 && !r.late && at.After(r.upgradedBy) {
		r.report(r.first, "the row has no MAC, and none had covered it long after the upgrade to a version that writes one")
	}
}

// signed takes a row with a MAC.
func (r *auditReplay) signed(sequence int64, at time.Time, mac []byte, key *uint32, purpose string, message [][]byte) {
	err := sealing.ErrForged
	if key != nil {
		err = r.keyset.CheckMAC(mac, *key, purpose, message...)
	}
	r.proven = err == nil
	if r.proven {
		r.uncovered(at)
	}
	switch {
	case len(r.gaps) > 0 && err == nil:
		r.missing(sequence)
	case len(r.gaps) > 0: // it may rest on them
		r.missing(0)
	case err != nil:
		what := "the row was altered, or does not belong here: "
		if r.pending.rows > 0 {
			what = "the row or one of those without a MAC before it was altered, or does not belong here: "
		}
		r.report(sequence, what+err.Error())
	}
	r.head, r.at, r.chained = mac, at, sequence
	r.covered += r.pending.rows
	r.pending = coverage{}
	for len(r.entries) > 0 && r.entries[0].count <= sequence {
		if e := r.entries[0]; e.count != sequence || !bytes.Equal(e.head, mac) {
			r.report(e.count, "the row is not the one that a checkpoint saw")
		}
		r.entries = r.entries[1:]
	}
}

// admins goes through the log of what belongs to no tenant.
func (a *auditVerifier) admins(ctx context.Context, tx pgx.Tx) error {
	var head auditHead
	var covered time.Time
	err := tx.QueryRow(ctx, `SELECT chained, head, covered, seal FROM admin_log_head`).
		Scan(&head.chained, &head.mac, &covered, &head.seal)
	known := !errors.Is(err, pgx.ErrNoRows)
	if err != nil && known {
		return fmt.Errorf("read the head of the admin log: %w", err)
	}
	r := &adminReplay{auditReplay: a.replay(TenantID{}, AdminLog)}
	err = eachAdminRow(ctx, tx, `WHERE chained IS NULL ORDER BY at, id`, func(row adminRow) { r.unchained = append(r.unchained, row) })
	if err != nil {
		return err
	}
	if err := eachAdminRow(ctx, tx, `WHERE chained IS NOT NULL ORDER BY chained`, r.row); err != nil {
		return err
	}
	switch {
	case !known:
		r.report(0, "the row with the head of the chain is gone")
	case head.chained > 0 && !covered.Equal(r.until):
		r.report(0, "the head of the chain says that it covers rows until another time")
	}
	r.cover(time.Time{}, true)
	end := sealedEnd{
		row: "the row with the head", purpose: adminHeadPurpose, message: adminSealMessage(head.chained, head.mac, covered), seal: head.seal,
	}
	a.end(r.auditReplay, end, head, known)
	return nil
}

// adminReplay goes through the log of the admins.
type adminReplay struct {
	*auditReplay

	unchained []adminRow // rows without a MAC that are not covered yet, by their time
	until     time.Time  // when the covered ones end
}

// cover takes the rows without a MAC until then, or all that are left.
func (r *adminReplay) cover(until time.Time, all bool) {
	for len(r.unchained) > 0 && (all || !r.unchained[0].at.After(until)) {
		row := r.unchained[0]
		r.rows++
		r.pending.add(row.fields())
		r.late = true // it may have waited for long: nothing covers it but the next row, whenever that comes
		switch {
		case row.mac != nil || row.key != nil || row.sealed:
			r.report(0, fmt.Sprintf("the row of id %d was altered: it has what belongs to a MAC, and no place in the chain", row.id))
		case row.at.After(r.upgradedBy):
			r.report(0, fmt.Sprintf("the row of id %d has no MAC, long after the upgrade to a version that writes one", row.id))
		}
		r.unchained = r.unchained[1:]
	}
}

// row takes the next row with a MAC.
func (r *adminReplay) row(row adminRow) {
	place := *row.chained
	if r.rows++; place <= r.sequence {
		r.report(place, "the row is there twice")
		return
	}
	r.skip(place)
	r.sequence = place
	r.until = covers(r.until, row.at)
	r.cover(r.until, false)
	if canonical, err := canonicalDetails(row.details); err == nil {
		row.details = canonical
	}
	r.signed(place, row.at, row.mac, row.key, adminRowPurpose, row.message(r.head, &r.pending))
	r.sealed = row.sealed
}

func eachAdminRow(ctx context.Context, tx pgx.Tx, which string, do func(row adminRow)) error {
	rows, err := tx.Query(ctx, `SELECT `+adminColumns+` FROM admin_log `+which)
	if err != nil {
		return fmt.Errorf("read admin log: %w", err)
	}
	var row adminRow
	_, err = pgx.ForEachRow(rows, row.targets(), func() error {
		do(row)
		row = adminRow{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read admin log: %w", err)
	}
	return nil
}
