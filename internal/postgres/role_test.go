package postgres_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

func TestCheckRole(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	owner := pgx.Identifier{"connect_owner"}.Sanitize()
	masked, err := url.Parse(db.AdminURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	query := masked.Query()
	query.Set("role", "connect_app") // as a superuser that wears the app's role
	masked.RawQuery = query.Encode()
	bypass := role(t, db, "BYPASSRLS")
	bypassName, err := url.Parse(bypass)
	if err != nil {
		t.Fatal("the role's URL can't be parsed")
	}

	tests := map[string]struct {
		url  string
		want string // part of the error; "": none
	}{
		"connect_app":                       {db.AppURL, ""},
		"superuser":                         {db.AdminURL, "is a superuser"},
		"superuser under connect_app":       {masked.String(), "is a superuser"},
		"bypasses row-level security":       {bypass, "has BYPASSRLS"},
		"member of one that bypasses":       {role(t, db, "NOINHERIT IN ROLE "+pgx.Identifier{bypassName.User.Username()}.Sanitize()), "has BYPASSRLS"},
		"owner":                             {db.OwnerURL, "owns the tables"},
		"member of the owner":               {role(t, db, "IN ROLE "+owner), "owns the tables"},
		"member of the owner, NOINHERIT":    {role(t, db, "NOINHERIT IN ROLE "+owner), "owns the tables"},
		"creates roles":                     {role(t, db, "CREATEROLE"), "may create roles"},
		"copies the cluster":                {role(t, db, "REPLICATION"), "may create roles or replicate"},
		"a role without any right or power": {role(t, db, ""), ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := postgres.CheckRole(t.Context(), openPool(t, postgres.PoolConfig{URL: tc.url, MaxConns: 1}))
			if tc.want == "" {
				if err != nil {
					t.Errorf("CheckRole() = %v, want nil", err)
				}
				return
			}
			if !errors.Is(err, postgres.ErrPrivileged) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("CheckRole() = %v, want ErrPrivileged that says %q", err, tc.want)
			}
			if password, _ := bypassName.User.Password(); strings.Contains(err.Error(), password) {
				t.Error("the error quotes a password")
			}
		})
	}
}

func TestCheckRoleNeedsTheDatabase(t *testing.T) {
	t.Parallel()
	pool := openPool(t, postgres.PoolConfig{URL: "postgres://connect_app:secret@127.0.0.1:1/none?sslmode=disable"})
	err := postgres.CheckRole(t.Context(), pool)
	if err == nil || errors.Is(err, postgres.ErrPrivileged) || !postgres.IsUnavailable(err) {
		t.Errorf("CheckRole() = %v, want one that says unavailable", err)
	}
}
