package prismasim

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// creation is the making of a project, a database or a connection, as data: it
// may be carried out now or, under the fault landLate, later.
type creation struct {
	Kind         string `json:"kind"`
	WorkspaceID  string `json:"workspaceId"`
	ParentID     string `json:"parentId,omitempty"` // of a database: its project; of a connection: its database
	Name         string `json:"name"`
	LogicalID    string `json:"logicalId,omitempty"`
	Region       string `json:"region,omitempty"`
	WithDatabase bool   `json:"withDatabase,omitempty"`
	IsDefault    bool   `json:"isDefault,omitempty"`
	Source       source `json:"source,omitzero"`
}

// Values of creation.Kind.
const (
	kindProject    = "project"
	kindDatabase   = "database"
	kindConnection = "connection"
)

// created is what came of a creation; the parts that it did not make are zero.
type created struct {
	project    project
	database   database
	connection connection
	password   string // of the connection
}

// errLandsLate answers a creation that was put off: it will happen, and its
// caller is not told.
var errLandsLate = errors.New("the creation lands late")

// creating carries out a creation that a request asks for, unless landLate
// strikes it.
func (s *Simulator) creating(c *call, what creation) (created, error) {
	late := time.Duration(c.faults.LandLate)
	always := c.faults.APIFailAfter == 0 && c.faults.APIDropAfter == 0
	if late == 0 || !always && !c.faults.struck {
		return s.create(c.Context(), what)
	}
	err := s.write(c.Context(), func(st *state) error {
		st.landings.set(newID("land_"), landing{Due: c.now.Add(late), Creation: what})
		return nil
	})
	s.wakeLander()
	return created{}, errors.Join(err, errLandsLate)
}

// create carries out a creation.
func (s *Simulator) create(ctx context.Context, what creation) (created, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	switch what.Kind {
	case kindProject:
		return s.makeProject(ctx, what)
	case kindDatabase:
		return s.makeDatabase(ctx, what)
	}
	return s.makeConnection(ctx, what)
}

// visibleAt tells when lists begin to show what is made now.
func (s *Simulator) visibleAt(st *state, now time.Time) time.Time {
	current, _ := st.settings.get(only)
	return now.Add(time.Duration(current.Faults.ListLag))
}

// strict tells whether logicalIds are kept unique.
func (st *state) strict() bool {
	current, _ := st.settings.get(only)
	return current.Faults.LogicalIDMode == logicalIDStrict
}

// wakeLander makes the worker of late landings look again.
func (s *Simulator) wakeLander() {
	select {
	case s.landed <- struct{}{}:
	default: // it is about to look anyway
	}
}

// landLate carries out the creations that were put off, each when the
// simulator's clock has reached its time, until the simulator closes.
func (s *Simulator) landLate() {
	for {
		wait := s.landDue()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.landed:
		case <-s.closing:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// landDue carries out what is due and returns how long nothing else will be.
func (s *Simulator) landDue() time.Duration {
	wait := time.Hour
	now := s.clock.now()
	var due []creation
	ctx := context.Background()              // no caller waits for these
	_ = s.write(ctx, func(st *state) error { // fn never fails
		for id, row := range st.landings.rows {
			if left := row.Due.Sub(now); left > 0 {
				wait = min(wait, left)
				continue
			}
			due = append(due, row.Creation)
			st.landings.remove(id)
		}
		return nil
	})
	for _, what := range due {
		if _, err := s.create(ctx, what); err != nil {
			s.logger.InfoContext(ctx, "prisma simulator: a late creation was refused", slog.String("kind", what.Kind), slog.Any("error", err))
		}
	}
	return wait
}
