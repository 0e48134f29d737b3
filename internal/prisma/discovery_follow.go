package prisma

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"time"
)

// The pauses between readings of the metadata, before jitter: doubling until the first
// success, then steady.
const (
	rediscoverFrom = time.Second
	rediscoverTo   = time.Minute
	refreshEvery   = time.Hour
)

// FollowMetadata reads the authorization server's metadata again and again until ctx
// ends: after 1 s, then at pauses that double up to a minute, until Discover has
// succeeded once, and every hour from then on. Each pause is shortened by up to a
// quarter, so that replicas don't ask together. first is what Discover said before, nil
// for a success.
//
// What could not be fetched is logged as a warning and what must not be used as an
// error, when it begins or changes, not at every attempt; in both cases the last
// acceptable metadata stays in use.
func (o *OAuth) FollowMetadata(ctx context.Context, log *slog.Logger, first error) {
	err, said := first, ""
	for pause := rediscoverFrom; ; {
		said = report(ctx, log, err, said)
		if _, known := o.Metadata(); known {
			pause = refreshEvery
		}
		timer := time.NewTimer(shorten(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(2*pause, rediscoverTo)
		_, err = o.Discover(ctx)
	}
}

// report logs the outcome of an attempt if it differs from what was said last, and
// returns what has been said now.
func report(ctx context.Context, log *slog.Logger, err error, said string) string {
	switch {
	case err == nil:
		if said != "" {
			log.InfoContext(ctx, "authorization server metadata read")
		}
		return ""
	case ctx.Err() != nil || err.Error() == said:
		return said
	}
	attr := slog.String("error", err.Error())
	if _, refused := errors.AsType[*MetadataError](err); refused {
		log.ErrorContext(ctx, "authorization server metadata refused; what was known before stays in use", attr)
	} else {
		log.WarnContext(ctx, "authorization server metadata not read; what was known before stays in use", attr)
	}
	return err.Error()
}

// shorten takes up to a quarter off d, at random.
func shorten(d time.Duration) time.Duration {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	part := float64(binary.LittleEndian.Uint32(b[:])) / (1 << 32)
	return d - time.Duration(float64(d)*part/4)
}
