package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
		return &Server{url: local.URL("postgres"), stop: local.Stop}, nil
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

// URL returns the connection string of a superuser. It is a secret.
func (s *Server) URL() string { return s.url }

// Stop ends a server that StartServer has started, and leaves one that was there.
func (s *Server) Stop(ctx context.Context) error { return s.stop(ctx) }
