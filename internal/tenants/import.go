package tenants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

// Imported is what became of a line.
type Imported struct {
	Number     int64
	Connection ConnectionID // the line's; zero: it was refused
	Already    bool         // it was stored before
	Refused    string       // why, in plain words that repeat nothing of the line; "": it is stored
}

const (
	// importLock is the advisory lock under which batches are stored, one after another:
	// two with the same token must not miss each other.
	importLock = 0x696d706f_72740001
	// importWait bounds how long a batch waits for another process's.
	importWait = time.Minute
	// importedLife is how long the access token of an imported pair lives at most.
	importedLife = 24 * time.Hour
	// pairAge is how old a pair is taken to be that does not say. Refresh tokens live
	// 90 days, and unused ones are renewed after 60.
	pairAge = 30 * 24 * time.Hour
)

// Import stores token pairs that were issued to the tenants' OAuth clients before, as
// active connections, in one transaction: all of the lines or, with an error, none. It
// presents no token to anybody.
//
// A line whose refresh token is stored already is refused, for two connections would
// revoke each other's, unless it is the connection of the same tenant, user and
// workspace: then the line was imported before. One is refused, too, whose user has
// another live connection to the workspace.
func (s *Store) Import(ctx context.Context, by Actor, lines []ImportLine) ([]Imported, error) {
	var done []Imported
	scope := postgres.Scope{Operator: true, Lock: importWait, Statement: importWait}
	store := func() error {
		return s.inTx(ctx, scope, func(tx pgx.Tx) error {
			b := &importBatch{store: s, tx: tx, lines: lines}
			var err error
			done, err = b.run(ctx, by)
			return err
		})
	}
	err := store()
	if postgres.IsUniqueViolation(err, "connections_one_per_workspace") {
		err = store() // somebody connected at this moment; now it is seen
	}
	return done, err
}

// importBatch is one transaction of an import.
type importBatch struct {
	store *Store
	tx    pgx.Tx
	lines []ImportLine

	now     time.Time
	clients map[TenantID]string    // the OAuth client of each tenant
	tokens  map[string]importOwner // by fingerprint, whose stored tokens those of the lines are
	live    map[importPlace]bool   // where a live connection is
	changes map[TenantID][]change  // what is to be written down
	rows    importRows
}

// importPlace is what there is one live connection of.
type importPlace struct {
	tenant            TenantID
	user, workspaceID string
}

// importOwner is a connection and where it belongs.
type importOwner struct {
	importPlace

	id   ConnectionID
	gone bool // it is disconnected
}

func (l ImportLine) place() importPlace { return importPlace{l.Tenant, l.UserID, l.WorkspaceID} }

func (b *importBatch) run(ctx context.Context, by Actor) ([]Imported, error) {
	if _, err := b.tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(importLock)); err != nil {
		return nil, fmt.Errorf("wait for another import: %w", err)
	}
	prints, err := b.read(ctx)
	if err != nil {
		return nil, err
	}
	b.changes = map[TenantID][]change{}
	done := make([]Imported, 0, len(b.lines))
	for i := range b.lines {
		outcome, err := b.line(&b.lines[i], prints[i])
		if err != nil {
			return nil, err
		}
		done = append(done, outcome)
	}
	if len(b.rows.ids) == 0 {
		return done, nil
	}
	if err := b.rows.insert(ctx, b.tx); err != nil {
		return nil, err
	}
	// In one order, so that two never wait for each other.
	owners := make([]TenantID, 0, len(b.changes))
	for tenant := range b.changes {
		owners = append(owners, tenant)
	}
	slices.SortFunc(owners, func(a, b TenantID) int { return cmp.Compare(a.UUID.String(), b.UUID.String()) })
	for _, tenant := range owners {
		if _, err := b.store.recordAll(ctx, b.tx, tenant, by, b.changes[tenant]); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// line decides about a line, and notes what is to be stored.
func (b *importBatch) line(l *ImportLine, prints []string) (Imported, error) {
	refused := func(why string) (Imported, error) { return Imported{Number: l.Number, Refused: why}, nil }
	client, known := b.clients[l.Tenant]
	if !known {
		return refused("there is no such tenant")
	}
	if client == "" {
		return refused("the tenant uses the shared OAuth client, and PRISMA_CLIENT_ID is not set")
	}
	for _, fingerprint := range prints {
		owner, stored := b.tokens[fingerprint]
		switch {
		case !stored:
		case owner.importPlace == l.place() && !owner.gone:
			return Imported{Number: l.Number, Connection: owner.id, Already: true}, nil
		case owner.importPlace == l.place():
			return refused("its refresh token was stored before, and the connection was ended since")
		default:
			return refused("its refresh token is stored already, for another user, workspace or tenant")
		}
	}
	if b.live[l.place()] {
		return refused("the user has a live connection to the workspace already, with other tokens")
	}
	id := ConnectionID{newID()}
	if err := b.rows.add(b.store, b.now, id, client, l); err != nil {
		return Imported{}, err
	}
	for _, fingerprint := range prints {
		b.tokens[fingerprint] = importOwner{importPlace: l.place(), id: id}
	}
	b.live[l.place()] = true
	b.changes[l.Tenant] = append(b.changes[l.Tenant], change{event: EventConnected, target: id.String(), data: map[string]any{
		"connectionId": id.String(), "userId": l.UserID, "workspaceId": l.WorkspaceID, "generation": 1, "imported": true,
	}})
	return Imported{Number: l.Number, Connection: id}, nil
}

// read learns what the lines are compared with, and returns each one's fingerprints,
// under every key of the keyset.
func (b *importBatch) read(ctx context.Context) ([][]string, error) {
	prints := make([][]string, len(b.lines))
	var all [][]byte
	var owners, users, workspaces []string
	for i := range b.lines {
		l := &b.lines[i]
		list, err := b.store.keyset.Fingerprints(refreshTokenPurpose, l.Refresh)
		if err != nil {
			return nil, err
		}
		for _, fingerprint := range list {
			prints[i], all = append(prints[i], string(fingerprint)), append(all, fingerprint)
		}
		owners, users, workspaces = append(owners, l.Tenant.UUID.String()), append(users, l.UserID), append(workspaces, l.WorkspaceID)
	}
	if err := b.tx.QueryRow(ctx, `SELECT app.wall_clock()`).Scan(&b.now); err != nil {
		return nil, fmt.Errorf("read clock: %w", err)
	}
	return prints, errors.Join(
		b.readClients(ctx, owners), b.readTokens(ctx, all), b.readLive(ctx, owners, users, workspaces))
}

func (b *importBatch) readClients(ctx context.Context, owners []string) error {
	b.clients = map[TenantID]string{}
	shared := b.store.shared.id()
	var id TenantID
	var client string
	return b.each(ctx, []any{&id, &client}, func() { b.clients[id] = client }, `
		SELECT id, CASE WHEN shared_client THEN $2 ELSE coalesce(oauth_client_id, '') END
		FROM tenants WHERE id = ANY ($1::text[]::uuid[])`, owners, shared)
}

// readTokens finds which of the tokens were stored, and for whom: those of the days that the
// ledger keeps, and of each connection the newest. What it has folded is no longer alive.
func (b *importBatch) readTokens(ctx context.Context, prints [][]byte) error {
	b.tokens = map[string]importOwner{}
	var fingerprint []byte
	var o importOwner
	targets := []any{&fingerprint, &o.tenant, &o.user, &o.workspaceID, &o.id, &o.gone}
	return b.each(ctx, targets, func() { b.tokens[string(fingerprint)] = o }, `
		SELECT s.fingerprint, c.tenant_id, c.user_id, c.workspace_id, c.id, c.status = 'disconnected' FROM (
			SELECT fingerprint, tenant_id, connection_id FROM refresh_ledger
			WHERE fingerprint = ANY ($1) AND fingerprint IS NOT NULL AND entry IN ('stored', 'adopted', 'saved', 'found_saved')
			UNION ALL
			SELECT fingerprint, tenant_id, connection_id FROM refresh_ledger_folds
			WHERE fingerprint = ANY ($1) AND fingerprint IS NOT NULL) s
		JOIN connections c ON c.tenant_id = s.tenant_id AND c.id = s.connection_id`, prints)
}

func (b *importBatch) readLive(ctx context.Context, owners, users, workspaces []string) error {
	b.live = map[importPlace]bool{}
	var p importPlace
	return b.each(ctx, []any{&p.tenant, &p.user, &p.workspaceID}, func() { b.live[p] = true }, `
		SELECT c.tenant_id, c.user_id, c.workspace_id
		FROM unnest($1::text[]::uuid[], $2::text[], $3::text[]) AS l (tenant_id, user_id, workspace_id)
		JOIN connections c ON c.tenant_id = l.tenant_id AND c.user_id = l.user_id AND c.workspace_id = l.workspace_id
		WHERE c.status <> 'disconnected'`, owners, users, workspaces)
}

// each calls do for each row of a query.
func (b *importBatch) each(ctx context.Context, targets []any, do func(), sql string, args ...any) error {
	rows, err := b.tx.Query(ctx, sql, args...)
	if err == nil {
		_, err = pgx.ForEachRow(rows, targets, func() error {
			do()
			return nil
		})
		err = cmp.Or(err, rows.Err())
	}
	if err != nil {
		return fmt.Errorf("compare with what is stored: %w", err)
	}
	return nil
}
