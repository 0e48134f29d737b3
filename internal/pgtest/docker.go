package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

// image is the server that runs where only Docker is installed.
const image = "postgres:17-alpine"

// startContainer runs a server in a container, if a Docker engine answers. The
// container is removed with Stop; when this process is killed, by the reaper that
// testcontainers runs beside it.
func startContainer(ctx context.Context) (*Server, error) {
	if err := engineAnswers(ctx); err != nil {
		return nil, fmt.Errorf("no Docker engine: %w", err)
	}
	container, err := postgres.Run(ctx, image,
		postgres.WithDatabase("postgres"),
		postgres.WithUsername("postgres"),
		postgres.WithPassword(rand.Text()),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
			"-c", "max_connections=300", "-c", "autovacuum=off", "-c", "jit=off", "-c", "timezone=UTC",
			"-c", "log_min_error_statement=panic", "-c", "log_error_verbosity=terse"),
		postgres.BasicWaitStrategies(),
	)
	stop := func(ctx context.Context) error {
		if err := testcontainers.TerminateContainer(container, testcontainers.StopContext(ctx)); err != nil {
			return fmt.Errorf("remove the container: %w", err)
		}
		return nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run a container: %w", err), stop(context.WithoutCancel(ctx)))
	}
	url, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find the container's port: %w", err), stop(context.WithoutCancel(ctx)))
	}
	return &Server{url: url, stop: stop}, nil
}

// engineAnswers asks the engine that testcontainers would use.
func engineAnswers(ctx context.Context) (err error) {
	defer func() { // some configurations make the library panic
		if p := recover(); p != nil {
			err = fmt.Errorf("testcontainers: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return fmt.Errorf("find the engine: %w", err)
	}
	if err := provider.Health(ctx); err != nil {
		return errors.Join(fmt.Errorf("ask the engine: %w", err), provider.Close())
	}
	return provider.Close() //nolint:wrapcheck // closes idle connections
}
