//go:build !linux

package pgtest

import "os"

// fastDir returns the temporary directory.
func fastDir() string { return os.TempDir() }
