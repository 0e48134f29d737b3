package tenants

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/sealing"
)

const (
	// rewrapBatch is how many rows are locked at a time, for some milliseconds.
	rewrapBatch = 100
	// rewrapPause is between two passes over the tables, for rows that somebody else had
	// locked; rewrapPasses is how many bring nothing before a rewrap gives up.
	rewrapPause  = 200 * time.Millisecond
	rewrapPasses = 25
	// sealedScan bounds a statement that reads a whole table.
	sealedScan = 10 * time.Minute
)

// sealedTable is a table with sealed columns. Each column's name ends in _sealed, which its
// place leaves out.
type sealedTable struct {
	name       string
	tenant     string // column of the tenant's id
	generation string // expression of what the seals are bound to beside; "0": nothing
	columns    []string
	id         func(uuid.UUID) string // of the row, as in its place
}

// sealedTables are all of them; a test compares it with the schema.
func sealedTables() []sealedTable {
	return []sealedTable{
		{
			"tenants", "id", "0",
			[]string{clientSecretColumn, nextSecretColumn, "service_token"},
			func(id uuid.UUID) string { return TenantID{id}.String() },
		},
		{
			"connections", "tenant_id", "generation",
			[]string{"access_token", "refresh_token"},
			func(id uuid.UUID) string { return ConnectionID{id}.String() },
		},
		{
			"connect_sessions", "tenant_id", "0",
			[]string{"code", "verifier"},
			func(id uuid.UUID) string { return SessionID{id}.String() },
		},
		{
			"operations", "tenant_id", "0",
			[]string{"secret"},
			func(id uuid.UUID) string { return OperationID{id}.String() },
		},
	}
}

// KeyUse is how many values of a column are sealed with a key.
type KeyUse struct {
	Key    uint32
	Column string // "connections.access_token"
	Values int
}

// KeyUses counts the sealed values in the database by their key. Values in spools are not
// among them. It reads every table with secrets from end to end.
func (s *Store) KeyUses(ctx context.Context) ([]KeyUse, error) {
	var all []KeyUse
	for _, table := range sealedTables() {
		for _, column := range table.columns {
			uses, err := s.keyUses(ctx, table.name, column)
			if err != nil {
				return nil, fmt.Errorf("count the keys of %s.%s: %w", table.name, column, err)
			}
			all = append(all, uses...)
		}
	}
	return all, nil
}

func (s *Store) keyUses(ctx context.Context, table, column string) (uses []KeyUse, err error) {
	err = s.inTx(ctx, postgres.Scope{Operator: true, Statement: sealedScan}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT substr(`+column+`_sealed, 1, 5), count(*) FROM `+table+`
			WHERE `+column+`_sealed IS NOT NULL GROUP BY 1 ORDER BY 1`)
		if err != nil {
			return err
		}
		uses, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (KeyUse, error) {
			var prefix []byte
			use := KeyUse{Column: table + "." + column}
			err := row.Scan(&prefix, &use.Values)
			use.Key, _ = sealing.KeyOf(prefix) // what is no sealed value counts as sealed with key 0
			return use, err
		})
		return err
	})
	return uses, err
}

// Rewrapped is what a rewrap did.
type Rewrapped struct {
	Values     int // sealed anew with the newest key
	Unreadable int // can't be opened, so they stay as they are
	Left       int // were in use by others to the end; the next rewrap finds them
}

// Rewrap seals every value in the database that is sealed with another key with the one
// that this store writes with, while the service runs. It never waits for a row and never
// changes one that somebody has in hand: it takes the rows that are free, a batch at a time,
// seals what is in them and lets go, and comes back for the others. What is fresh is sealed
// with the newest key anyway. It can be interrupted and begun again. report is told of each
// batch, with the number of values of that table so far.
//
// The log of the installation gets a row. A replica that lives and can't read the newest key
// gives CheckReplicaKeys' error.
func (s *Store) Rewrap(ctx context.Context, by Actor, report func(table string, values int)) (Rewrapped, error) {
	if err := s.CheckReplicaKeys(ctx, true); err != nil {
		return Rewrapped{}, err
	}
	var sum Rewrapped
	for idle := 0; idle < rewrapPasses; idle++ {
		before, unreadable := sum.Values, 0
		for _, table := range sealedTables() {
			done, bad, err := s.rewrapTable(ctx, table, report)
			if sum.Values, unreadable = sum.Values+done, unreadable+bad; err != nil {
				return sum, fmt.Errorf("rewrap %s: %w", table.name, err)
			}
		}
		if sum.Values > before {
			idle = 0
		}
		uses, err := s.KeyUses(ctx)
		if err != nil {
			return sum, err
		}
		sum.Unreadable, sum.Left = unreadable, s.notNewest(uses)-unreadable
		if sum.Left <= 0 {
			sum.Left = 0
			break
		}
		select {
		case <-ctx.Done():
			return sum, ctx.Err()
		case <-time.After(rewrapPause):
		}
	}
	return sum, s.inOperator(ctx, func(tx pgx.Tx) error {
		return s.logAdmin(ctx, tx, by, adminChange{action: "secrets.rewrapped", details: map[string]any{
			"key": s.keyset.SealKeys()[0], "values": sum.Values, "unreadable": sum.Unreadable, "left": sum.Left,
		}})
	})
}

// notNewest is how many values are sealed with another key than the newest.
func (s *Store) notNewest(uses []KeyUse) (n int) {
	for _, use := range uses {
		if use.Key != s.keyset.SealKeys()[0] {
			n += use.Values
		}
	}
	return n
}

// rewrapTable goes over a table once.
func (s *Store) rewrapTable(ctx context.Context, table sealedTable, report func(string, int)) (done, unreadable int, err error) {
	var after sealedRow
	for {
		var rows []sealedRow
		values := 0
		err := s.inTx(ctx, postgres.Scope{Operator: true, Statement: sealedScan}, func(tx pgx.Tx) (err error) {
			if rows, err = s.lockOldSeals(ctx, tx, table, after); err != nil {
				return err
			}
			var batch pgx.Batch
			for _, row := range rows {
				fresh, n, bad := s.reseal(table, row)
				unreadable += bad
				if n > 0 {
					batch.Queue(updateSeals(table), row.arguments(fresh)...).Exec(func(tag pgconn.CommandTag) error {
						values += n * int(tag.RowsAffected())
						return nil
					})
				}
			}
			return tx.SendBatch(ctx, &batch).Close()
		})
		if err != nil {
			return done, unreadable, err
		}
		if len(rows) == 0 {
			return done, unreadable, nil
		}
		after = rows[len(rows)-1]
		if done += values; values > 0 && report != nil {
			report(table.name, done)
		}
	}
}

// sealedRow is a row with its sealed values, in the order of its table's columns.
type sealedRow struct {
	tenant, id uuid.UUID
	generation int64
	sealed     [][]byte
}

// lockOldSeals locks the next rows, of those that nobody else has locked, with a value that
// is not sealed with the newest key.
func (s *Store) lockOldSeals(ctx context.Context, tx pgx.Tx, table sealedTable, after sealedRow) ([]sealedRow, error) {
	old := make([]string, len(table.columns))
	for i, column := range table.columns {
		old[i] = "substr(" + column + "_sealed, 1, 5) <> $1"
	}
	rows, err := tx.Query(ctx, `
		SELECT `+table.tenant+`, id, `+table.generation+`, `+strings.Join(table.columns, "_sealed, ")+`_sealed FROM `+table.name+`
		WHERE (`+table.tenant+`, id) > ($2, $3) AND (`+strings.Join(old, " OR ")+`)
		ORDER BY `+table.tenant+`, id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED`,
		s.keyset.SealPrefix(), after.tenant, after.id, rewrapBatch)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (sealedRow, error) {
		row := sealedRow{sealed: make([][]byte, len(table.columns))}
		targets := []any{&row.tenant, &row.id, &row.generation}
		for i := range row.sealed {
			targets = append(targets, &row.sealed[i])
		}
		return row, r.Scan(targets...)
	})
}

// reseal returns the row's values sealed with the newest key, and how many of them were not,
// and how many can't be opened and stay.
func (s *Store) reseal(table sealedTable, row sealedRow) (fresh [][]byte, values, unreadable int) {
	fresh = slices.Clone(row.sealed)
	for i, sealed := range row.sealed {
		if key, _ := sealing.KeyOf(sealed); sealed == nil || key == s.keyset.SealKeys()[0] {
			continue
		}
		place := sealing.Place{
			Table: table.name, Column: table.columns[i], Tenant: TenantID{row.tenant}.String(), ID: table.id(row.id),
			Generation: row.generation,
		}
		plain, err := s.keyset.Open(sealed, place)
		if err == nil {
			fresh[i], err = s.keyset.Seal(plain, place)
		}
		if err != nil {
			fresh[i] = sealed
			unreadable++
			continue
		}
		values++
	}
	return fresh, values, unreadable
}

// updateSeals replaces a row's values if they and the generation are those that were read.
// The row is locked, so they are: that is said once more in the statement, because a fresh
// token that is overwritten is a connection lost.
func updateSeals(table sealedTable) string {
	var set, same strings.Builder
	for i, column := range table.columns {
		if i > 0 {
			set.WriteString(", ")
		}
		fmt.Fprintf(&set, "%s_sealed = $%d", column, 4+i)
		fmt.Fprintf(&same, " AND %s_sealed IS NOT DISTINCT FROM $%d", column, 4+len(table.columns)+i)
	}
	return "UPDATE " + table.name + " SET " + set.String() +
		" WHERE " + table.tenant + " = $1 AND id = $2 AND " + table.generation + " = $3" + same.String()
}

func (row sealedRow) arguments(fresh [][]byte) []any {
	args := []any{row.tenant, row.id, row.generation}
	for _, values := range [][][]byte{fresh, row.sealed} {
		for _, value := range values {
			args = append(args, value)
		}
	}
	return args
}
