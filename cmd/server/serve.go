package main

import (
	"context"
	"fmt"
	"net"
)

// serveCommand runs the service from its environment.
type serveCommand struct{}

// Run implements the command.
func (*serveCommand) Run(ctx context.Context, c *console) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	log, err := newLogger(c.stderr, cfg.LogLevel)
	if err != nil {
		return err
	}
	s, err := newService(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer s.close()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ListenAddr)
	if err != nil {
		return fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	return s.serve(ctx, listener)
}
