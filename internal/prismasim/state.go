package prismasim

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// state is everything the simulator remembers. It is guarded by Simulator.mu;
// rows are values, so a copy taken under the lock may be used after it.
type state struct {
	journal *journal

	clients       *table[client]
	users         *table[user]
	workspaces    *table[workspace]
	serviceTokens *table[serviceToken] // by id
	grants        *table[grant]
	integrations  *table[integration] // by id
	codes         *table[authCode]    // by hash
	refreshTokens *table[refreshToken]
	accessTokens  *table[accessToken] // by hash
	projects      *table[project]
	databases     *table[database]
	connections   *table[connection]
	backups       *table[backup]
	landings      *table[landing]
	settings      *table[settings]
	tallies       *table[tallies]
	keys          *table[signingKey]

	serviceTokenByHash map[string]string // value hash → id
	refreshTokenByHash map[string]string // value hash → id
	lastSeq            uint64
}

// newState returns an empty state that writes its changes to j.
func newState(j *journal) *state {
	st := &state{
		journal:       j,
		clients:       newTable[client]("client", nil),
		users:         newTable[user]("user", nil),
		workspaces:    newTable[workspace]("workspace", nil),
		serviceTokens: newTable("serviceToken", func(t serviceToken) (string, uint64) { return t.WorkspaceID, t.Seq }),
		grants:        newTable("grant", func(g grant) (string, uint64) { return integrationKey(g.WorkspaceID, g.ClientID), g.Seq }),
		integrations:  newTable("integration", func(i integration) (string, uint64) { return i.WorkspaceID, i.Seq }),
		codes:         newTable[authCode]("code", nil),
		refreshTokens: newTable("refreshToken", func(t refreshToken) (string, uint64) { return t.GrantID, t.Seq }),
		accessTokens:  newTable[accessToken]("accessToken", nil),
		projects:      newTable("project", func(p project) (string, uint64) { return p.WorkspaceID, p.Seq }),
		databases:     newTable("database", func(d database) (string, uint64) { return d.ProjectID, d.Seq }),
		connections:   newTable("connection", func(c connection) (string, uint64) { return c.DatabaseID, c.Seq }),
		backups:       newTable("backup", func(b backup) (string, uint64) { return b.DatabaseID, b.Seq }),
		landings:      newTable[landing]("landing", nil),
		settings:      newTable[settings]("settings", nil),
		tallies:       newTable[tallies]("tallies", nil),
		keys:          newTable[signingKey]("key", nil),

		serviceTokenByHash: map[string]string{},
		refreshTokenByHash: map[string]string{},
	}
	for _, t := range st.tables() {
		t.writeTo(j)
	}
	return st
}

// storedTable is what journal and reset need of a table of any row type.
type storedTable interface {
	name() string
	writeTo(j *journal)
	apply(id string, row json.RawMessage) error
	each(fn func(id string, row any) error) error
	clear()
}

// tables lists every table; the order is the order in the compacted journal.
func (st *state) tables() []storedTable {
	return []storedTable{
		st.keys, st.settings, st.tallies, st.clients, st.users, st.workspaces, st.serviceTokens, st.grants, st.integrations,
		st.codes, st.refreshTokens, st.accessTokens, st.projects, st.databases, st.connections, st.backups, st.landings,
	}
}

// rebuild makes the indexes that are not tables, after the rows were loaded.
func (st *state) rebuild() {
	clear(st.serviceTokenByHash)
	clear(st.refreshTokenByHash)
	for id, t := range st.serviceTokens.rows {
		st.serviceTokenByHash[t.Hash] = id
		st.lastSeq = max(st.lastSeq, t.Seq)
	}
	for id, t := range st.refreshTokens.rows {
		st.refreshTokenByHash[t.Hash] = id
		st.lastSeq = max(st.lastSeq, t.Seq)
	}
	for _, highest := range []uint64{
		st.grants.highest(), st.integrations.highest(), st.projects.highest(),
		st.databases.highest(), st.connections.highest(), st.backups.highest(),
	} {
		st.lastSeq = max(st.lastSeq, highest)
	}
}

// nextSeq returns the next number of the order in which rows were made: lists
// and their cursors follow it.
func (st *state) nextSeq() uint64 {
	st.lastSeq++
	return st.lastSeq
}

// table holds the rows of one kind by id. With a parent function it also keeps
// the ids below each parent in the order in which they were made.
type table[T any] struct {
	kind     string
	rows     map[string]T
	parent   func(T) (parent string, seq uint64)
	children map[string][]string
	journal  *journal
}

func newTable[T any](kind string, parent func(T) (string, uint64)) *table[T] {
	return &table[T]{kind: kind, rows: map[string]T{}, parent: parent, children: map[string][]string{}}
}

func (t *table[T]) name() string       { return t.kind }
func (t *table[T]) writeTo(j *journal) { t.journal = j }

// get returns the row named id; ok is false when there is none.
func (t *table[T]) get(id string) (row T, ok bool) {
	row, ok = t.rows[id]
	return row, ok
}

// set stores row under id, in memory and in the journal.
func (t *table[T]) set(id string, row T) {
	t.place(id, row)
	t.journal.put(t.kind, id, row)
}

// remove forgets the row named id; an unknown id is left alone.
func (t *table[T]) remove(id string) {
	if _, ok := t.rows[id]; !ok {
		return
	}
	t.drop(id)
	t.journal.put(t.kind, id, nil)
}

// under returns copies of the rows below parent, oldest first.
func (t *table[T]) under(parent string) []T {
	ids := t.children[parent]
	rows := make([]T, len(ids))
	for i, id := range ids {
		rows[i] = t.rows[id]
	}
	return rows
}

// place stores row in memory only.
func (t *table[T]) place(id string, row T) {
	if t.parent != nil {
		t.index(id, row)
	}
	t.rows[id] = row
}

// index puts id below its parent at the place its number gives it. A row that
// keeps its parent keeps its place: numbers never change.
func (t *table[T]) index(id string, row T) {
	parent, seq := t.parent(row)
	if old, ok := t.rows[id]; ok {
		if was, _ := t.parent(old); was == parent {
			return
		}
		t.unindex(id)
	}
	ids := t.children[parent]
	at := len(ids)
	for at > 0 && t.seq(ids[at-1]) > seq {
		at--
	}
	t.children[parent] = slices.Insert(ids, at, id)
}

func (t *table[T]) seq(id string) uint64 {
	_, seq := t.parent(t.rows[id])
	return seq
}

// highest returns the greatest number in the table, 0 when it is empty.
func (t *table[T]) highest() uint64 {
	var highest uint64
	for id := range t.rows {
		highest = max(highest, t.seq(id))
	}
	return highest
}

func (t *table[T]) drop(id string) {
	if t.parent != nil {
		t.unindex(id)
	}
	delete(t.rows, id)
}

func (t *table[T]) unindex(id string) {
	old, ok := t.rows[id]
	if !ok {
		return
	}
	parent, _ := t.parent(old)
	ids := slices.DeleteFunc(slices.Clone(t.children[parent]), func(other string) bool { return other == id })
	if len(ids) == 0 {
		delete(t.children, parent)
		return
	}
	t.children[parent] = ids
}

// apply takes one journal line; a null row is a removal.
func (t *table[T]) apply(id string, raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		t.drop(id)
		return nil
	}
	var row T
	if err := json.Unmarshal(raw, &row); err != nil {
		return fmt.Errorf("row %q of kind %s: %w", id, t.kind, err)
	}
	t.place(id, row)
	return nil
}

// each calls fn for every row, in no order, until it fails.
func (t *table[T]) each(fn func(id string, row any) error) error {
	for id, row := range t.rows {
		if err := fn(id, row); err != nil {
			return err
		}
	}
	return nil
}

// clear removes every row, in the journal too.
func (t *table[T]) clear() {
	for id := range t.rows {
		t.remove(id)
	}
}

// clock is the simulator's time: a source plus an offset that only grows.
type clock struct {
	source func() time.Time
	offset atomic.Int64 // nanoseconds
}

// now returns the simulator's time in UTC, to the millisecond that Prisma shows.
func (c *clock) now() time.Time {
	return c.source().Add(time.Duration(c.offset.Load())).UTC().Truncate(time.Millisecond)
}
