package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrPrivileged tells that the role may see more than row-level security allows.
var ErrPrivileged = errors.New("the database role is too powerful")

// CheckRole returns ErrPrivileged, with a sentence that says why, when the
// pool's role is a superuser, has BYPASSRLS, or owns tables itself or through a
// membership: row-level security would not hold it.
func CheckRole(ctx context.Context, pool *pgxpool.Pool) error {
	var name string
	var superuser, bypass, owner bool
	err := pool.QueryRow(ctx, `
		SELECT r.rolname, r.rolsuper, r.rolbypassrls,
		       EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		               WHERE n.nspname IN ('public', 'app', 'river') AND c.relkind IN ('r', 'p')
		                 AND pg_has_role(r.oid, c.relowner, 'MEMBER'))
		FROM pg_roles r WHERE r.rolname = current_user`).Scan(&name, &superuser, &bypass, &owner)
	if err != nil {
		return fmt.Errorf("check database role: %w", err)
	}
	switch {
	case superuser:
		return fmt.Errorf("%w: %q is a superuser; use connect_app in DATABASE_URL", ErrPrivileged, name)
	case bypass:
		return fmt.Errorf("%w: %q has BYPASSRLS; use connect_app in DATABASE_URL", ErrPrivileged, name)
	case owner:
		return fmt.Errorf("%w: %q owns the tables; use connect_app in DATABASE_URL and the owner in MIGRATE_DATABASE_URL only",
			ErrPrivileged, name)
	}
	return nil
}
