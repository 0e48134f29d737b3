package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/prismasim"
)

// simulateCommand runs the Prisma simulator alone, for a service that runs
// elsewhere.
type simulateCommand struct {
	DataDir  string   `default:".simulator" help:"Where its state is kept, and its Postgres unless DATABASE_URL names one."`
	Listen   string   `default:"127.0.0.1:8081" help:"Where it listens."`
	URL      string   `help:"The origin that browsers and the service reach it by. Default: http:// and the listen address."`
	Redirect []string `name:"redirect-uri" help:"A further redirect URI of the seeded client; may be given several times."`
}

// Run implements the command.
func (cmd *simulateCommand) Run(ctx context.Context, c *console) error {
	log := slog.New(slog.NewTextHandler(c.stderr, nil))
	databaseURL := c.getenv("DATABASE_URL")
	if databaseURL == "" {
		server, err := devpg.Start(ctx, devpg.Config{Dir: filepath.Join(cmd.DataDir, "postgres"), Logger: log})
		if err != nil {
			return err
		}
		defer stopPostgres(ctx, server, log)
		databaseURL = server.URL("postgres")
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cmd.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	origin := cmd.URL
	if origin == "" {
		origin = "http://" + listener.Addr().String()
	}
	state, err := loadDevState(filepath.Join(cmd.DataDir, devStateFile))
	if err != nil {
		_ = listener.Close() // nothing was accepted yet
		return err
	}
	sim, err := prismasim.New(ctx, prismasim.Config{
		URL: origin, DatabaseURL: databaseURL, StateDir: filepath.Join(cmd.DataDir, "simulator"), Logger: log,
		Seed: devSeed(state, append(cmd.Redirect, "http://localhost:8080/oauth/callback")),
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	c.printf("The Prisma simulator is at %s\n  client id      %s\n  client secret  %s\n  service token  %s\n",
		origin, devClientID, state.ClientSecret, state.ServiceToken)
	err = serveUntil(ctx, listener, sim, log)
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(err, sim.Close(closeCtx))
}

// serveUntil serves handler until ctx ends and lets requests finish.
func serveUntil(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close() // a client that hangs; the simulator is for development
	}
	return nil
}

func stopPostgres(ctx context.Context, server *devpg.Server, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		log.WarnContext(ctx, "Postgres did not stop", slog.String("error", err.Error()))
	}
}
