// The partner command is a sample partner app: choose a user, connect a Prisma
// workspace, create a database, get its connection string. README.md says how to
// run it against your own Connect Prisma server; package app is what to read.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/connect-prisma/server/examples/partner/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "partner:", err)
		os.Exit(1)
	}
}

// run serves the app until ctx ends, and then lets requests finish.
func run(ctx context.Context, getenv func(string) string, stderr io.Writer) error {
	for _, name := range []string{"CONNECT_URL", "CONNECT_API_KEY"} {
		if getenv(name) == "" {
			return fmt.Errorf("%s is not set; README.md says what it is", name)
		}
	}
	address := cmp.Or(getenv("LISTEN_ADDR"), "127.0.0.1:8082")
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	handler, err := app.New(app.Config{
		ConnectURL:       getenv("CONNECT_URL"),
		ConnectPublicURL: getenv("CONNECT_PUBLIC_URL"),
		APIKey:           getenv("CONNECT_API_KEY"),
		PublicURL:        cmp.Or(getenv("PUBLIC_URL"), "http://localhost:8082"),
		SessionKey:       sessionKey(getenv("SESSION_KEY")),
		Logger:           logger,
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	logger.InfoContext(ctx, "listening", slog.String("address", listener.Addr().String()))
	return serve(ctx, listener, handler)
}

// sessionKey returns nil for a key that is not set: the app then makes one.
func sessionKey(value string) []byte {
	if value == "" {
		return nil
	}
	return []byte(value)
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      5 * time.Minute, // a page waits for three API calls at most, one after the other
		IdleTimeout:       2 * time.Minute,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
