package prismasim

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// backupRetentionDays is what the list of backups tells.
const backupRetentionDays = 7

// defaultBackups is the length of a list of backups without a limit.
const defaultBackups = 25

type backupView struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	BackupType string    `json:"backupType"`
	CreatedAt  time.Time `json:"createdAt"`
	Size       int64     `json:"size"`
	Status     string    `json:"status"`
}

func viewBackup(row backup) backupView {
	return backupView{
		ID: row.ID, Type: "backup", BackupType: "full", CreatedAt: row.CreatedAt, Size: row.Size, Status: "completed",
	}
}

// listBackups serves GET /v1/databases/{databaseId}/backups?limit=, newest first.
// A database has one of its empty beginning, and those that POST
// /_control/backup took.
func (s *Simulator) listBackups(c *call) (reply, error) {
	limit, err := c.limit(defaultBackups)
	if err != nil {
		return reply{}, err
	}
	var rows []backup
	s.read(func(st *state) {
		var owner database
		if owner, err = st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId")); err == nil {
			rows = st.backups.under(owner.ID)
		}
	})
	if err != nil {
		return reply{}, err
	}
	slices.Reverse(rows)
	views := []backupView{}
	for _, row := range rows[:min(limit, len(rows))] {
		views = append(views, viewBackup(row))
	}
	return reply{http.StatusOK, map[string]any{
		"data":       views,
		"meta":       map[string]int{"backupRetentionDays": backupRetentionDays},
		"pagination": map[string]any{"hasMore": len(rows) > limit, "limit": limit},
	}}, nil
}

// takeBackup copies a database as it is now.
func (s *Simulator) takeBackup(ctx context.Context, id string) (backup, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	id = canonicalID(prefixDatabase, id)
	defer s.rows.lock(id)()
	var row database
	var found bool
	var logins []string
	s.read(func(st *state) {
		row, found = st.databases.get(id)
		logins = st.logins(id)
	})
	if !found || row.Status != statusReady {
		return backup{}, notFound("A ready database of that id")
	}
	size, _, err := s.real.figures(ctx, id)
	if err != nil {
		return backup{}, err
	}
	made := backup{ID: newID(prefixBackup), DatabaseID: id, Size: size, CreatedAt: s.clock.now()}
	if err := s.real.snapshot(ctx, id, made.ID, logins); err != nil {
		_ = s.real.drop(ctx, made.ID, nil) // what there is of it; the first error tells why
		return backup{}, err
	}
	return made, s.write(ctx, func(st *state) error {
		made.Seq = st.nextSeq()
		st.backups.set(made.ID, made)
		return nil
	})
}

// restoreDatabase serves POST /v1/databases/{targetDatabaseId}/restore. The
// answer says "recovering"; the work goes on behind it, and connections and
// credentials stay.
func (s *Simulator) restoreDatabase(c *call) (reply, error) {
	var body struct {
		Source source `json:"source"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	from := body.Source
	from.DatabaseID = canonicalID(prefixDatabase, from.DatabaseID)
	from.BackupID = canonicalID(prefixBackup, from.BackupID)
	var view databaseView
	err := s.write(c.Context(), func(st *state) error {
		row, err := st.ownDatabase(c.actor.workspaceID, c.PathValue("targetDatabaseId"))
		if err != nil {
			return err
		}
		if err := st.checkSource(c.actor.workspaceID, from); err != nil {
			return err
		}
		if row.Status == statusProvisioning || row.Status == statusRecovering {
			return conflict("The database is " + row.Status + ".")
		}
		row.Status, row.Source = statusRecovering, from
		st.databases.set(row.ID, row)
		view = s.viewDatabase(st, row, c.now)
		return nil
	})
	if err != nil {
		return reply{}, err
	}
	ctx := c.Context() // of work that outlives its request: see perform
	s.tasks.Go(func() { s.recoverContent(ctx, view.ID) })
	return reply{http.StatusOK, dataBody{view}}, nil
}

// recoverContent gives a recovering database the content of its source.
func (s *Simulator) recoverContent(ctx context.Context, id string) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	var row database
	find := func() bool {
		s.read(func(st *state) { row = st.databases.rows[id] })
		return row.Status == statusRecovering
	}
	if !find() {
		return
	}
	defer s.rows.lock(id, row.Source.DatabaseID)()
	if !find() { // deleted meanwhile
		return
	}
	from, owner, logins := s.contentOf(row.Source)
	if err := s.real.restore(ctx, from, id, owner, logins); err != nil {
		s.logger.ErrorContext(ctx, "prisma simulator: a restore failed", slog.String("database", id), slog.Any("error", err))
		s.setStatus(ctx, id, statusFailure)
		return
	}
	s.setStatus(ctx, id, statusReady)
}

// getUsage serves GET /v1/databases/{databaseId}/usage?startDate=&endDate=: the
// size that the real database has now and the transactions it has seen. Postgres
// keeps no history, so the period bounds neither.
func (s *Simulator) getUsage(c *call) (reply, error) {
	start := time.Date(c.now.Year(), c.now.Month(), 1, 0, 0, 0, 0, time.UTC)
	end := c.now
	for name, at := range map[string]*time.Time{"startDate": &start, "endDate": &end} {
		text := c.URL.Query().Get(name)
		if text == "" {
			continue
		}
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return reply{}, badRequest(name + " must be a date-time such as 2026-01-31T00:00:00Z.")
		}
		*at = parsed.UTC()
	}
	if end.Before(start) {
		return reply{}, badRequest("endDate must not be before startDate.")
	}
	var row database
	var err error
	s.read(func(st *state) { row, err = st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId")) })
	if err != nil {
		return reply{}, err
	}
	size, transactions, err := s.real.figures(c.Context(), row.ID)
	if err != nil {
		return reply{}, err
	}
	return reply{http.StatusOK, map[string]any{
		"period": map[string]any{"start": start, "end": end},
		"metrics": map[string]any{
			"operations": map[string]any{"used": transactions, "unit": "ops"},
			"storage":    map[string]any{"used": float64(size) / (1 << 30), "unit": "GiB"},
		},
		"generatedAt": c.now,
	}}, nil
}
