package prisma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// How long the outcome of reading the metadata is good for: a success, so that a
// process that runs for months learns of a move; a failure, so that a server without
// metadata is not asked at every call.
const (
	discoveryEvery = time.Hour
	discoveryPause = time.Minute
)

// discovery reads the authorization server's metadata when it is needed, not before and
// not in the background: an SDK has no goroutine of its own.
type discovery struct {
	oauth  *OAuth
	now    func() time.Time
	logger *slog.Logger

	gate  gate // guards what follows, and lets one caller fetch for all
	due   time.Time
	known bool  // due has been set
	bad   error // the *MetadataError of the last reading, if nothing better is known
}

func newDiscovery(oauth *OAuth, now func() time.Time, logger *slog.Logger) *discovery {
	return &discovery{oauth: oauth, now: now, logger: logger, gate: newGate()}
}

// ensure reads the metadata unless that was done a short time ago. A document that
// could not be fetched is no error: requests go to what was known before, at first the
// conventional endpoints. One that must not be used is, a *MetadataError, until an
// acceptable one has been read; after that the last acceptable one stays in use. When
// ctx ends the error is ctx's.
func (d *discovery) ensure(ctx context.Context) error {
	if d == nil {
		return nil
	}
	return d.gate.pass(ctx, func() error {
		if d.known && d.now().Before(d.due) {
			return d.bad
		}
		_, err := d.oauth.Discover(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("read the authorization server's metadata: %w", ctx.Err())
		}
		d.note(ctx, err)
		return d.bad
	})
}

// note keeps the outcome of a reading.
func (d *discovery) note(ctx context.Context, err error) {
	d.known = true
	if err == nil {
		d.due, d.bad = d.now().Add(discoveryEvery), nil
		return
	}
	d.due = d.now().Add(discoveryPause)
	_, acceptable := d.oauth.Metadata()
	if refused, ok := errors.AsType[*MetadataError](err); ok && !acceptable {
		d.bad = refused
	}
	d.logger.WarnContext(ctx, "authorization server metadata not used", slog.String("error", err.Error()))
}
