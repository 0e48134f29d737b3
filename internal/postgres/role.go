package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrPrivileged tells that the role may see more than row-level security allows.
var ErrPrivileged = errors.New("the database role is too powerful")

// CheckRole returns ErrPrivileged, with a sentence that says why, when
// row-level security would not hold the pool's role: it is a superuser, has
// BYPASSRLS, owns tables, may create roles (and grant itself that of the owner) or
// replicate (and so copy everything), or could become such a role with SET ROLE. The
// role is the one that logged in, whatever the URL sets on top of it.
func CheckRole(ctx context.Context, pool *pgxpool.Pool) error {
	var name string
	var superuser, bypass, owner, creates bool
	// A superuser counts as a member of every role.
	err := pool.QueryRow(ctx, `
		SELECT session_user, bool_or(r.rolsuper), bool_or(r.rolbypassrls),
		       bool_or(r.rolcreaterole OR r.rolreplication),
		       bool_or(EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		                       WHERE n.nspname IN ('public', 'app', 'river') AND c.relkind IN ('r', 'p')
		                         AND c.relowner = r.oid))
		FROM pg_roles r WHERE pg_has_role(session_user, r.oid, 'MEMBER')`).Scan(&name, &superuser, &bypass, &creates, &owner)
	if err != nil {
		return fmt.Errorf("check database role: %w", err)
	}
	switch {
	case superuser:
		return fmt.Errorf("%w: %q is a superuser; use connect_app in DATABASE_URL", ErrPrivileged, name)
	case bypass:
		return fmt.Errorf("%w: %q has BYPASSRLS; use connect_app in DATABASE_URL", ErrPrivileged, name)
	case creates && !owner:
		return fmt.Errorf("%w: %q may create roles or replicate; use connect_app in DATABASE_URL", ErrPrivileged, name)
	case owner:
		return fmt.Errorf("%w: %q owns the tables; use connect_app in DATABASE_URL and the owner in MIGRATE_DATABASE_URL only",
			ErrPrivileged, name)
	}
	return nil
}
