package prismasim

import (
	"context"
	"slices"
	"strings"
)

// putSeed serves PUT /_control/seed. The answer has everything seeded by now,
// without secrets.
func (s *Simulator) putSeed(ctx context.Context, body []byte) (any, error) {
	var seed Seed
	if err := readControl(body, &seed); err != nil {
		return nil, err
	}
	if err := s.applySeed(ctx, seed); err != nil {
		return nil, &controlError{err.Error()}
	}
	return s.viewSeed(), nil
}

// viewSeed renders clients, users, workspaces and service tokens.
func (s *Simulator) viewSeed() Seed {
	view := Seed{}
	s.read(func(st *state) {
		for _, c := range st.clients.rows {
			view.Clients = append(view.Clients, Client{
				ID: c.ID, Name: c.Name, RedirectURIs: c.RedirectURIs, Public: c.Public, AnyLoopbackRedirect: c.AnyLoopbackRedirect,
			})
		}
		for _, u := range st.usersInOrder() {
			view.Users = append(view.Users, User(u))
		}
		for _, w := range st.workspaces.rows {
			view.Workspaces = append(view.Workspaces, Workspace{ID: w.ID, Name: w.Name})
		}
		for _, t := range st.serviceTokens.rows {
			view.ServiceTokens = append(view.ServiceTokens, ServiceToken{WorkspaceID: t.WorkspaceID, Name: t.Name, Value: t.Hint})
		}
	})
	slices.SortFunc(view.Clients, func(a, b Client) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(view.Workspaces, func(a, b Workspace) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(view.ServiceTokens, func(a, b ServiceToken) int { return strings.Compare(a.Name, b.Name) })
	return view
}

// postReset serves POST /_control/reset: counters, ledger, faults, consent,
// grants, projects and databases, the real ones with them, go; what was seeded
// and the clock stay. Requests at work on databases are waited for.
func (s *Simulator) postReset(ctx context.Context, _ []byte) (any, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := s.dropEverything(ctx); err != nil {
		return nil, err
	}
	err := s.write(ctx, func(st *state) error {
		for _, t := range []storedTable{
			st.grants, st.integrations, st.codes, st.refreshTokens, st.accessTokens,
			st.projects, st.databases, st.connections, st.backups, st.landings,
		} {
			t.clear()
		}
		st.dropUnseeded()
		s.apiRequests.Store(0)
		st.tallies.set(only, tallies{})
		current, _ := st.settings.get(only)
		current.Faults, current.Consent = noFaults(), consent{Mode: consentPage}
		st.settings.set(only, current)
		st.rebuild()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.getLedger(ctx, nil)
}

// dropUnseeded removes the workspaces and service tokens that were made through
// the API.
func (st *state) dropUnseeded() {
	for id, row := range st.serviceTokens.rows {
		if !row.Seeded {
			st.serviceTokens.remove(id)
		}
	}
	for id, row := range st.workspaces.rows {
		if !row.Seeded {
			st.workspaces.remove(id)
		}
	}
	for id, row := range st.users.rows {
		kept := slices.DeleteFunc(slices.Clone(row.WorkspaceIDs), func(w string) bool {
			_, ok := st.workspaces.get(w)
			return !ok
		})
		if len(kept) != len(row.WorkspaceIDs) {
			row.WorkspaceIDs = kept
			st.users.set(id, row)
		}
	}
}
