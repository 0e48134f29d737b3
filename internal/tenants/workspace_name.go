package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// nameTimeout bounds what nameLater writes behind a call.
const nameTimeout = 10 * time.Second

// NameWorkspace notes the name of a connection's workspace as Prisma gives it.
func (s *Store) NameWorkspace(ctx context.Context, tenant TenantID, id ConnectionID, name string) error {
	if runes := []rune(name); len(runes) > 255 {
		name = string(runes[:255])
	}
	return s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE connections SET workspace_name = $3, updated_at = app.now()
			WHERE tenant_id = $1 AND id = $2 AND workspace_name <> $3`, tenant, id, name)
		return err
	})
}

// nameLater has a job read the name of an imported connection's workspace, now that
// somebody uses its tokens. Nobody waits for it, and an error leaves it to the next use.
func (t *TokenStorage) nameLater(ctx context.Context) {
	s := t.store
	if !s.behindSaves.begin() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nameTimeout)
	go func() {
		defer s.behindSaves.end()
		defer cancel()
		_ = s.inTenant(ctx, t.tenant, func(tx pgx.Tx) error { // the next use repeats it
			tag, err := tx.Exec(ctx, `
				UPDATE connections SET name_due = false WHERE tenant_id = $1 AND id = $2 AND name_due`, t.tenant, t.id)
			if err != nil {
				return fmt.Errorf("name workspace: %w", err)
			}
			if tag.RowsAffected() == 0 {
				return nil // another call was first
			}
			return s.enqueue(ctx, tx, NameWorkspaceJob{Tenant: t.tenant, Connection: t.id}, 0)
		})
	}()
}
