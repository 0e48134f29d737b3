package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
)

// EnvURL is the environment variable that names a server for tests: a URL of the
// form postgres://user:password@host:port/database, of a superuser.
const EnvURL = "TEST_DATABASE_URL"

// Server is a Postgres server for tests.
type Server struct {
	url  string
	stop func(context.Context) error
}

// StartServer finds or starts a server, in the order that the package comment
// gives. One that it has started ends with Stop or with this process.
//
// Errors: what failed; without any server, how to get one.
func StartServer(ctx context.Context) (*Server, error) {
	if url := os.Getenv(EnvURL); url != "" {
		return &Server{url: url, stop: func(context.Context) error { return nil }}, nil
	}
	local, err := devpg.Start(ctx, devpg.Config{
		Dir:       filepath.Join(fastDir(), "connect-prisma-"+rand.Text()),
		Ephemeral: true,
	})
	if err == nil {
		server := &Server{url: local.URL("postgres"), stop: local.Stop}
		if err := server.connectFast(ctx); err != nil {
			return nil, errors.Join(err, local.Stop(context.WithoutCancel(ctx)))
		}
		return server, nil
	}
	if !errors.Is(err, devpg.ErrNotInstalled) {
		return nil, fmt.Errorf("start a server for tests: %w", err)
	}
	server, errDocker := startContainer(ctx)
	if errDocker != nil {
		return nil, fmt.Errorf("no Postgres for tests; set %s to a superuser's URL, install one, or start Docker: %w",
			EnvURL, errors.Join(err, errDocker))
	}
	return server, nil
}

// connectFast stores the superuser's password in the form that costs no time.
func (s *Server) connectFast(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return fmt.Errorf("connect to the server for tests: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sql := "ALTER ROLE CURRENT_USER PASSWORD '" + verifier(conn.Config().Password) + "'"
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("set the superuser's password: %w", err)
	}
	return nil
}

// URL returns the connection string of a superuser. It is a secret.
func (s *Server) URL() string { return s.url }

// Stop ends a server that StartServer has started, and leaves one that was there.
func (s *Server) Stop(ctx context.Context) error { return s.stop(ctx) }
