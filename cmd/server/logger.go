package main

import (
	"errors"
	"io"
	"log/slog"

	"github.com/connect-prisma/server/internal/redact"
)

// newLogger writes JSON lines without secrets.
func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, errors.New("LOG_LEVEL must be debug, info, warn or error")
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: least, ReplaceAttr: redact.New().Attr})), nil
}
