package prisma

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// maxLinks is how many symbolic links are followed to the token file.
const maxLinks = 32

// followLink returns the file that a symbolic link points to, in the end, or path
// itself. The file need not exist. Links among the directories don't matter: what lies
// beside the file is found through them all the same.
func followLink(path string) (string, error) {
	for range maxLinks {
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && info.Mode()&os.ModeSymlink == 0 {
			return path, nil
		}
		if err != nil {
			return "", fmt.Errorf("look at the token file: %w", err)
		}
		target, err := os.Readlink(path)
		if err != nil {
			return "", fmt.Errorf("follow the link to the token file: %w", err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("token file %s: too many symbolic links", path)
}

// makeDir makes the directory and those above it that are missing, for their owner
// alone, and waits until they are on the disk.
func makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err // nil when there is something, even if it is no directory: that shows soon enough
	}
	parent := filepath.Dir(path)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// readTokenFile reads the file at path; without one, it is empty.
func readTokenFile(path string) (tokenFile, error) {
	info, err := os.Lstat(path) // before it is opened: opening a pipe would wait
	if errors.Is(err, os.ErrNotExist) {
		return tokenFile{}, nil
	}
	if err != nil {
		return tokenFile{}, fmt.Errorf("look at the token file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return tokenFile{}, fmt.Errorf("token file %s: not a regular file", path)
	}
	f, err := os.Open(path) //nolint:gosec // G304: the path is the caller's choice
	if errors.Is(err, os.ErrNotExist) {
		return tokenFile{}, nil
	}
	if err != nil {
		return tokenFile{}, fmt.Errorf("open the token file: %w", err)
	}
	defer f.Close()
	if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" { // there the bits mean nothing
		// Where that is not allowed, as in a read-only mount, the tokens still serve.
		_ = f.Chmod(0o600)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return tokenFile{}, fmt.Errorf("read the token file: %w", err)
	}
	if len(content) > maxTokenFile {
		return tokenFile{}, fmt.Errorf("token file %s: %w", path, ErrTokenFile)
	}
	file, err := parseTokenFile(content)
	if err != nil {
		return tokenFile{}, fmt.Errorf("token file %s: %w", path, err)
	}
	return file, nil
}

// writeTokenFile replaces the file at path, whole or not at all: when it returns nil
// the new content survives a crash of the machine, and at any moment a reader finds
// the old or the new one. Its caller holds the lock, so a temporary file that exists
// already was left by a process that died, and goes.
func writeTokenFile(path string, file tokenFile) error {
	content, err := file.format()
	if err != nil {
		return fmt.Errorf("format the token file: %w", err)
	}
	if len(content) > maxTokenFile { // nobody could read it again
		return fmt.Errorf("write the token file: it would be larger than %d bytes", maxTokenFile)
	}
	temp := path + tempSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a stale temporary token file: %w", err)
	}
	if err := writeSynced(temp, content); err != nil {
		_ = os.Remove(temp) // it may hold tokens; the error to tell is the first one
		return fmt.Errorf("write the token file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("replace the token file: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("sync the directory of the token file: %w", err)
	}
	return nil
}

// writeSynced writes a new file for its owner alone and waits until it is on the disk.
func writeSynced(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: as above
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}
