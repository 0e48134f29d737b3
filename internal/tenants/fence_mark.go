package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// fenceWritesForgotten is fenceWritesLost as a process finds it that was started since.
const fenceWritesForgotten = "the database is behind what it had acknowledged to an earlier process: its disk was put back to an earlier state"

// fenceMark is what the database has acknowledged to a process, kept on a disk of the
// process's own. A database whose disk is put back to an earlier state while no replica
// runs is the same cluster on the same timeline, and every token in it was used since:
// nothing in the database tells, and the processes that knew are gone.
type fenceMark struct {
	Place     Place       `json:"place"`
	Position  int64       `json:"position"`  // of the write-ahead log; 0: not told
	DecidedAt time.Time   `json:"decidedAt"` // when the decision was made that it found the fence open under
	Saves     []savedMark `json:"saves"`     // its latest: a log grows again, a generation does not
}

// savedMark is a token pair that the database acknowledged.
type savedMark struct {
	Tenant     uuid.UUID `json:"tenant"`
	Connection uuid.UUID `json:"connection"`
	Generation int64     `json:"generation"`
}

// fenceMarks are the marks in a directory that the processes of an installation share:
//
//	Dir/fence-<replica>.mark    0600, of one process, replaced at each of its beats
//
// They outlive their processes. A newer one takes away those that it stands for. They
// hold no token and nothing of a user.
type fenceMarks struct {
	dir   string
	own   string
	log   *slog.Logger
	left  []fenceMark // by earlier processes
	files []string    // theirs, until this process's own mark stands for them; guarded by Beat's one caller
	told  bool        // that it could not be written
}

// openFenceMarks reads what earlier processes left. A mark that can't be read may be the
// one that matters, so it is an error.
func openFenceMarks(dir string, replica uuid.UUID, log *slog.Logger) (*fenceMarks, error) {
	m := &fenceMarks{dir: dir, own: filepath.Join(dir, "fence-"+replica.String()+".mark"), log: log}
	files, err := filepath.Glob(filepath.Join(dir, "fence-*.mark"))
	if err != nil {
		return nil, fmt.Errorf("find the fence's marks: %w", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Clean(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process's mark stands for it
		}
		var mark fenceMark
		if err == nil {
			err = json.Unmarshal(content, &mark)
		}
		if err != nil {
			return nil, fmt.Errorf("read the fence's mark %s, which `rm` lets be forgotten: %w", file, err)
		}
		m.left, m.files = append(m.left, mark), append(m.files, file)
	}
	return m, nil
}

// behind reports, at this process's first look, whether the database is behind a mark of
// an earlier one. An operator who has decided since knows of it.
func (m *fenceMarks) behind(ctx context.Context, tx pgx.Tx, seen sight) (bool, error) {
	if m == nil {
		return false, nil
	}
	for _, mark := range m.left {
		accepted := seen.Decided.What == DecidedByCommand && seen.Decided.At.After(mark.DecidedAt)
		if mark.Place != seen.Here || accepted {
			continue // of another place, which the decisions are about
		}
		var known memory
		for _, s := range mark.Saves {
			known.tenants = append(known.tenants, s.Tenant)
			known.connections = append(known.connections, s.Connection)
			known.generations = append(known.generations, s.Generation)
		}
		var position int64
		var lost bool
		err := tx.QueryRow(ctx, `SELECT app.wal_position(), app.token_writes_lost($1, $2, $3)`,
			known.tenants, known.connections, known.generations).Scan(&position, &lost)
		if err != nil {
			return false, fmt.Errorf("compare the database with the fence's mark: %w", err)
		}
		if lost || position != 0 && position < mark.Position {
			return true, nil
		}
	}
	return false, nil
}

// write replaces this process's mark, and takes away those that it stands for. A disk that
// does not take it leaves the mark before, which is one beat weaker.
func (m *fenceMarks) write(ctx context.Context, mark fenceMark) {
	if m == nil {
		return
	}
	mark.Saves = append(m.inherited(mark), mark.Saves...)
	mark.Saves = mark.Saves[max(0, len(mark.Saves)-rememberedSaves):]
	err := m.replace(mark)
	switch {
	case err == nil:
		m.told = false
	case !m.told:
		m.told = true
		m.log.WarnContext(ctx, "the fence's mark can't be written", slog.Any("error", err))
	}
	if err != nil {
		return
	}
	for i, file := range m.files {
		left := m.left[i]
		if left.Place == mark.Place && left.Position > mark.Position && !mark.DecidedAt.After(left.DecidedAt) {
			continue
		}
		_ = os.Remove(file) // it does no harm
	}
	m.files = nil
}

// inherited are the saves of the marks that this one stands for.
func (m *fenceMarks) inherited(mark fenceMark) (saves []savedMark) {
	for _, left := range m.left {
		if left.Place == mark.Place && left.DecidedAt.Equal(mark.DecidedAt) {
			saves = append(saves, left.Saves...)
		}
	}
	return saves
}

func (m *fenceMarks) replace(mark fenceMark) (err error) {
	content, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	next := m.own + ".tmp"
	file, err := os.OpenFile(filepath.Clean(next), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, m.own); err != nil {
		return err
	}
	return syncRoot(m.dir)
}

// mark is what this process would leave behind, if the fence is open to it.
func (f *fence) mark(seen sight, position int64) (fenceMark, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost || f.why(seen) != fenceOpen {
		return fenceMark{}, false
	}
	mark := fenceMark{Place: seen.Here, Position: position, DecidedAt: seen.Decided.At, Saves: []savedMark{}}
	for _, w := range f.saves {
		mark.Saves = append(mark.Saves, savedMark{Tenant: w.tenant, Connection: w.connection, Generation: w.generation})
	}
	return mark, true
}
