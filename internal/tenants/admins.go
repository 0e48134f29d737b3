package tenants

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// The life of an admin session.
const (
	AdminIdle = 15 * time.Minute
	AdminLife = 12 * time.Hour
)

// Admin is a person who runs the service.
type Admin struct {
	ID    AdminID
	Email string
}

// SetAdmin makes an admin, or replaces the password of one, which also ends all
// of its sessions. hash is in argon2id's PHC form.
func (s *Store) SetAdmin(ctx context.Context, by Actor, email, hash string) (Admin, error) {
	admin := Admin{ID: AdminID{newID()}, Email: strings.ToLower(strings.TrimSpace(email))}
	if !strings.Contains(admin.Email, "@") || len(admin.Email) > 254 || !IsLabel(admin.Email, 254) {
		return Admin{}, fault.New(fault.InvalidValue, "The admin needs an email address.", nil)
	}
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			INSERT INTO admins (id, email, password_hash) VALUES ($1, $2, $3)
			ON CONFLICT (email) DO UPDATE SET password_hash = $3, updated_at = app.now() RETURNING id`,
			admin.ID, admin.Email, hash).Scan(&admin.ID)
		if err != nil {
			return fmt.Errorf("store admin: %w", err)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM admin_sessions WHERE admin_id = $1`, admin.ID); err != nil {
			return fmt.Errorf("end admin sessions: %w", err)
		}
		return s.logAdmin(ctx, tx, by, adminChange{action: "admin.set_password", admin: &admin.ID})
	})
	return admin, err
}

// AdminByEmail returns an admin and its password hash; fault.NotFound when there
// is none.
func (s *Store) AdminByEmail(ctx context.Context, email string) (Admin, string, error) {
	var admin Admin
	var hash string
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT id, email, password_hash FROM admins WHERE email = $1`,
			strings.ToLower(strings.TrimSpace(email))).Scan(&admin.ID, &admin.Email, &hash)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Admin{}, "", fault.New(fault.NotFound, "There is no such admin.", err)
	}
	return admin, hash, err
}

// BeginAdminSession makes a session and returns its secret, of which a hash is
// kept.
func (s *Store) BeginAdminSession(ctx context.Context, by Actor, admin AdminID) (string, error) {
	secret := RandomToken()
	hash := sha256.Sum256([]byte(secret)) // 256 random bits need no key
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO admin_sessions (secret_hash, admin_id) VALUES ($1, $2)`, hash[:], admin)
		if err != nil {
			return fmt.Errorf("insert admin session: %w", err)
		}
		return s.logAdmin(ctx, tx, by, adminChange{action: "admin.sign_in", admin: &admin})
	})
	return secret, err
}

// AdminBySession returns who a session secret belongs to and keeps the session
// awake; fault.Unauthorized when it is unknown, idle for AdminIdle or older than
// AdminLife.
func (s *Store) AdminBySession(ctx context.Context, secret string) (Admin, error) {
	hash := sha256.Sum256([]byte(secret))
	var admin Admin
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			UPDATE admin_sessions x SET last_seen_at = app.now() FROM admins a
			WHERE x.secret_hash = $1 AND a.id = x.admin_id
			  AND x.last_seen_at > app.now() - $2::interval AND x.created_at > app.now() - $3::interval
			RETURNING a.id, a.email`, hash[:], AdminIdle, AdminLife).Scan(&admin.ID, &admin.Email)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Admin{}, fault.New(fault.Unauthorized, "The session has ended; sign in again.", err)
	}
	return admin, err
}

// EndAdminSession forgets a session; one that is unknown is no error.
func (s *Store) EndAdminSession(ctx context.Context, by Actor, secret string) error {
	hash := sha256.Sum256([]byte(secret))
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		var admin AdminID
		err := tx.QueryRow(ctx, `DELETE FROM admin_sessions WHERE secret_hash = $1 RETURNING admin_id`, hash[:]).Scan(&admin)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("end admin session: %w", err)
		}
		return s.logAdmin(ctx, tx, by, adminChange{action: "admin.sign_out", admin: &admin})
	})
}

// NoteFailedSignIn keeps a failed sign-in in the log of the admins, without the
// address that was tried: people type passwords there.
func (s *Store) NoteFailedSignIn(ctx context.Context, by Actor) error {
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		return s.logAdmin(ctx, tx, by, adminChange{action: "admin.sign_in_failed"})
	})
}

// FailedSignIns counts the failed sign-ins of the last while from that address:
// what a limit is measured by, on every replica.
func (s *Store) FailedSignIns(ctx context.Context, by Actor, within time.Duration) (int, error) {
	var n int
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT count(*) FROM admin_log
			WHERE action = 'admin.sign_in_failed' AND ip IS NOT DISTINCT FROM $1 AND at > app.now() - $2::interval`,
			nullAddr(by.IP), within).Scan(&n)
	})
	return n, err
}
