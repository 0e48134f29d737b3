//go:build !linux

package tenants_test

import (
	"errors"
	"testing"
)

// mountSmall mounts nothing here.
func mountSmall(t *testing.T, _, _ string) error {
	t.Helper()
	return errors.ErrUnsupported
}

// remountSmall has nothing to give other options to.
func remountSmall(_, _ string) error { return errors.ErrUnsupported }
