package migrations

import (
	"context"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
)

// UpTo is Up with other files, until a version.
func UpTo(ctx context.Context, ownerURL string, files fs.FS, version int64) error {
	return with(ctx, ownerURL, files, Options{LockTimeout: time.Minute}, func(p *goose.Provider) error {
		_, err := p.UpTo(ctx, version)
		return err
	})
}

// Again runs one migration that has been run before, as if it had been killed at its end.
func Again(ctx context.Context, ownerURL string, version int64) error {
	return with(ctx, ownerURL, FS, Options{LockTimeout: time.Minute}, func(p *goose.Provider) error {
		_, err := p.ApplyVersion(ctx, version, true)
		return err
	})
}
