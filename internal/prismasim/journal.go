package prismasim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// journal is the file that the state is rebuilt from: one JSON line for each
// changed row, the last line of a row wins. Lines of one change are written
// with one call, so that a killed process leaves all of them or none. It is not
// fsynced: it survives the process, not the machine.
//
// The zero journal keeps nothing. Calls are serialized by Simulator.mu.
type journal struct {
	file    *os.File
	lock    *os.File
	pending bytes.Buffer
	size    int64 // bytes written whole
	logger  *slog.Logger
}

// journalLine is one changed row; a null Row is a removal.
type journalLine struct {
	Kind string          `json:"k"`
	ID   string          `json:"i"`
	Row  json.RawMessage `json:"r"`
}

// Names in the state directory.
const (
	journalName = "journal.jsonl"
	lockName    = "journal.lock"
)

// openJournal loads the journal in dir into a new state, rewrites it without
// the lines that later ones replaced, and returns the state, which appends to
// it from then on. Only one process may have dir open. An empty dir gives a
// state that is kept in memory alone.
func openJournal(dir string, logger *slog.Logger) (*state, error) {
	j := &journal{logger: logger}
	st := newState(j)
	if dir == "" {
		return st, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	j.lock = lock
	path := filepath.Join(dir, journalName)
	if err := loadJournal(path, st); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	st.rebuild()
	file, size, err := compactJournal(path, st)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	j.file, j.size = file, size
	return st, nil
}

// lockFile takes the file lock at path or fails at once; closing it, or the end
// of the process, releases it.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // G304: the caller's own state directory
	if err != nil {
		return nil, fmt.Errorf("open the state lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another simulator uses the state in %s: %w", filepath.Dir(path), err), file.Close())
	}
	return file, nil
}

// loadJournal applies the lines of the file at path, if there is one. A last
// line without its newline was being written when the process died: its change
// was never answered, so it is dropped.
func loadJournal(path string, st *state) error {
	file, err := os.Open(path) //nolint:gosec // G304: the caller's own state directory
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	defer file.Close()

	tables := map[string]storedTable{}
	for _, t := range st.tables() {
		tables[t.name()] = t
	}
	reader := bufio.NewReaderSize(file, 1<<20)
	for number := 1; ; number++ {
		text, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		var line journalLine
		if err := json.Unmarshal(text, &line); err != nil {
			return fmt.Errorf("journal line %d: %w", number, err)
		}
		t, ok := tables[line.Kind]
		if !ok {
			return fmt.Errorf("journal line %d: unknown kind %q", number, line.Kind)
		}
		if err := t.apply(line.ID, line.Row); err != nil {
			return fmt.Errorf("journal line %d: %w", number, err)
		}
	}
}

// compactJournal writes st to a new file, puts it in the place of path and
// returns it open for appending, with its size in bytes.
func compactJournal(path string, st *state) (*os.File, int64, error) {
	next := path + ".new"
	file, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // G304: the caller's own state directory
	if err != nil {
		return nil, 0, fmt.Errorf("make the compacted journal: %w", err)
	}
	writer := bufio.NewWriter(file)
	var size int64
	for _, t := range st.tables() {
		err = errors.Join(err, t.each(func(id string, row any) error {
			line, err := encodeLine(t.name(), id, row)
			if err != nil {
				return err
			}
			size += int64(len(line))
			_, err = writer.Write(line)
			return err
		}))
	}
	if err = errors.Join(err, writer.Flush()); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("write the compacted journal: %w", err), file.Close())
	}
	if err := os.Rename(next, path); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("replace the journal: %w", err), file.Close())
	}
	return file, size, nil
}

// encodeLine returns the journal line of a row, with its newline.
func encodeLine(kind, id string, row any) ([]byte, error) {
	raw, err := json.Marshal(row)
	if err != nil {
		return nil, fmt.Errorf("encode a row of kind %s: %w", kind, err)
	}
	line, err := json.Marshal(journalLine{Kind: kind, ID: id, Row: raw})
	if err != nil {
		return nil, fmt.Errorf("encode a line of kind %s: %w", kind, err)
	}
	return append(line, '\n'), nil
}

// put adds one changed row to the change under way; a nil row is a removal.
func (j *journal) put(kind, id string, row any) {
	if j.file == nil {
		return
	}
	line, err := encodeLine(kind, id, row)
	if err != nil {
		j.logger.Error("prisma simulator: a change is not in the journal", slog.Any("error", err))
		return
	}
	j.pending.Write(line)
}

// commit writes the change under way. A failure (a full disk) is logged and the
// change stays in memory: the simulator goes on, but a restart forgets it. What
// was written of it is cut off, so that the file stays readable.
func (j *journal) commit(ctx context.Context) {
	if j.file == nil || j.pending.Len() == 0 {
		return
	}
	if _, err := j.file.Write(j.pending.Bytes()); err != nil {
		err = errors.Join(err, j.file.Truncate(j.size))
		j.logger.ErrorContext(ctx, "prisma simulator: the journal cannot be written", slog.Any("error", err))
	} else {
		j.size += int64(j.pending.Len())
	}
	j.pending.Reset()
}

// close ends the journal and frees the state directory.
func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Close(), j.lock.Close())
	j.file = nil
	return err
}
