package tenants

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	spoolReplica = "replica-" // begins the name of a process's directory
	spoolLock    = "lock"
)

// errSpoolLocked: the directory's owner lives.
var errSpoolLocked = errors.New("locked")

// spoolDirectory is one process's part of the spool, while this process has its lock.
type spoolDirectory struct {
	name string
	root *os.Root
	lock *os.File
}

// makeSpoolDirectory makes a directory for this process and locks it. Whoever looks at
// the spool just then may be faster and take it for a dead process's: then it makes
// another one.
func makeSpoolDirectory(parent string) (*spoolDirectory, error) {
	var err error
	for range 10 {
		name := spoolReplica + newID().String()
		if err = os.Mkdir(filepath.Join(parent, name), 0o700); err != nil {
			return nil, err
		}
		var d *spoolDirectory
		if d, err = lockSpoolDirectory(parent, name); err == nil {
			if err = syncRoot(parent); err != nil {
				d.dissolve(parent)
				return nil, err
			}
			return d, nil
		}
		if !errors.Is(err, errSpoolLocked) && !errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(filepath.Join(parent, name)) // as empty as it was made; the error to tell is the first one
			return nil, err
		}
	}
	return nil, err
}

// lockSpoolDirectory locks a directory of the spool if nobody has; errSpoolLocked
// otherwise. fs.ErrNotExist: it was removed at this very moment.
func lockSpoolDirectory(parent, name string) (*spoolDirectory, error) {
	root, err := os.OpenRoot(filepath.Join(parent, name))
	if err != nil {
		return nil, err
	}
	d := &spoolDirectory{name: name, root: root}
	if err := d.take(); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// take locks the directory. The kernel frees the lock when the process ends.
func (d *spoolDirectory) take() error {
	var err error
	if d.lock, err = d.root.OpenFile(spoolLock, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	for {
		err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errSpoolLocked
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", d.name, err)
	}
	mine, err := d.lock.Stat()
	if err != nil {
		return err
	}
	there, err := d.root.Lstat(spoolLock)
	if err != nil {
		return err
	}
	if !os.SameFile(mine, there) { // removed with its directory while we waited, and made anew
		return errSpoolLocked
	}
	return nil
}

// exists reports whether the directory is still where it was.
func (d *spoolDirectory) exists() bool {
	_, err := d.root.Lstat(spoolLock)
	return err == nil
}

// release lets go of the directory and leaves it as it is.
func (d *spoolDirectory) release() {
	if d.lock != nil {
		_ = d.lock.Close() // nothing was written to it, and the lock is gone either way
	}
	_ = d.root.Close() // nor is there anything to do about this
}

// dissolve removes the directory if there are no entries in it, and lets go of it.
func (d *spoolDirectory) dissolve(parent string) {
	if names, err := d.names(); err == nil && len(names) == 0 {
		_ = d.root.Remove(spoolLock) // whatever stays is removed by the next one who finds it
		_ = os.Remove(filepath.Join(parent, d.name))
	}
	d.release()
}

// names lists what is in the directory besides the lock: entries, those that were
// being written, and those put aside, in the order of their names.
func (d *spoolDirectory) names() ([]string, error) {
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		return name == spoolLock || !strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(name, spoolTemp), spoolUnreadable), spoolSuffix)
	}), nil
}

// read returns a file's content; errSpoolDamaged if it can't be an entry's.
func (d *spoolDirectory) read(name string) ([]byte, error) {
	info, err := d.root.Lstat(name) // before it is opened: opening a pipe would wait
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSpoolFile {
		return nil, errSpoolDamaged
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSpoolFile))
}

// write writes a file, whole or not at all: when it returns nil the file survives a
// crash of the machine. What it wrote of one that it can't write it removes.
func (d *spoolDirectory) write(name string, content []byte) error {
	temp := name + spoolTemp
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // an earlier attempt's, which could not be removed then
	}
	err := d.writeSynced(temp, content)
	if err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		_ = d.root.Remove(temp) // the error to tell is the first one
		return err
	}
	return d.sync()
}

// writeSynced writes a new file for its owner alone and waits until it is on the disk.
func (d *spoolDirectory) writeSynced(name string, content []byte) (err error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}

// rename gives a file another name.
func (d *spoolDirectory) rename(from, to string) error {
	if err := d.root.Rename(from, to); err != nil {
		return err
	}
	return d.sync()
}

// remove removes a file; one that is gone already is removed.
func (d *spoolDirectory) remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // not synced: an entry that comes back after a crash is superseded
}

// sync makes renames in the directory survive a crash of the machine.
func (d *spoolDirectory) sync() error {
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return syncAndClose(dir)
}

func syncRoot(path string) error {
	dir, err := os.Open(path) //nolint:gosec // G304: the operator names the directory
	if err != nil {
		return err
	}
	return syncAndClose(dir)
}

// syncAndClose syncs a directory. Some file systems can't and say so; then nothing more
// can be done.
func syncAndClose(dir *os.File) error {
	err := dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}
