package tenants_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestConnectionFilters: each filter shows what it says and nothing else, and is answered
// from an index: a partner who looks for one workspace among many thousands of connections
// does not wait for all, and keeps no connection to the database from others.
func TestConnectionFilters(t *testing.T) {
	t.Parallel()
	s := openService(t)
	store, last := s.listing(t, "FROM connections")
	tenant := s.tenant(t, "Acme").ID
	first := s.connect(t, tenant, "ada", prisma.Tokens{WorkspaceID: "wksp_1", Access: "a", Refresh: "r"})
	// Of each kind two, far apart, among the many.
	s.sql(t, `
		INSERT INTO connections (tenant_id, id, user_id, workspace_id, oauth_client_id, status, status_reason, generation,
			access_token_sealed, refresh_token_sealed, access_issued_at, access_expires_at)
		SELECT tenant_id, ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
			CASE n % 15000 WHEN 1 THEN 'rare' ELSE 'user' || n END,
			CASE n % 15000 WHEN 2 THEN 'wksp_rare' ELSE 'wksp_' || n % 7 || '_' || n / 15000 END, oauth_client_id,
			CASE n % 15000 WHEN 3 THEN 'needs_reconnect' WHEN 4 THEN 'disconnected' ELSE status END,
			CASE n % 15000 WHEN 3 THEN 'refused' END, generation,
			CASE n % 15000 WHEN 4 THEN NULL ELSE access_token_sealed END,
			CASE n % 15000 WHEN 4 THEN NULL ELSE refresh_token_sealed END, access_issued_at, access_expires_at
		FROM connections, generate_series(1, 30000) n WHERE id = $1`, first.ID.UUID)
	s.sql(t, `ANALYZE connections`)

	at := func(n ...int) (ids []tenants.ConnectionID) {
		for _, n := range n {
			ids = append(ids, tenants.ConnectionID{UUID: uuid.MustParse(fmt.Sprintf("ffffffff-0000-7000-8000-%012x", n))})
		}
		return ids
	}
	for name, tc := range map[string]struct {
		filter tenants.ConnectionFilter
		want   []tenants.ConnectionID
		index  string
	}{
		"user":         {tenants.ConnectionFilter{UserID: "rare"}, at(1, 15001), "connections_one_per_workspace"},
		"workspace":    {tenants.ConnectionFilter{WorkspaceID: "wksp_rare"}, at(2, 15002), "connections_workspace"},
		"status":       {tenants.ConnectionFilter{Status: tenants.ConnectionNeedsReconnect}, at(3, 15003), "connections_status"},
		"disconnected": {tenants.ConnectionFilter{Status: tenants.ConnectionDisconnected}, at(4, 15004), "connections_status"},
		"all of them": {
			tenants.ConnectionFilter{UserID: "user2", WorkspaceID: "wksp_rare", Status: tenants.ConnectionActive}, at(2), "connections_",
		},
		"a later page": {tenants.ConnectionFilter{WorkspaceID: "wksp_rare", After: at(2)[0]}, at(15002), "connections_workspace"},
		"nothing":      {tenants.ConnectionFilter{UserID: "rare", Status: tenants.ConnectionNeedsReconnect}, nil, "connections_"},
	} {
		tc.filter.Limit = 10
		list, more, err := store.Connections(t.Context(), tenant, tc.filter)
		ok(t, err)
		var got []tenants.ConnectionID
		for _, c := range list {
			got = append(got, c.ID)
		}
		if !slices.Equal(got, tc.want) || more {
			t.Errorf("%s: %v, more: %t; want %v and no more", name, got, more, tc.want)
		}
		plan := s.plan(t, last.sql, last.args)
		if !strings.Contains(plan, tc.index) {
			t.Errorf("%s is not found by an index %s:\n%s", name, tc.index, plan)
		}
		for line := range strings.Lines(plan) {
			var passed int
			if _, err := fmt.Sscanf(strings.TrimSpace(line), "Rows Removed by Filter: %d", &passed); err == nil && passed > 10 {
				t.Errorf("%s: %d rows were read in vain", name, passed)
			}
		}
	}
	list, more, err := store.Connections(t.Context(), tenant, tenants.ConnectionFilter{Limit: 4})
	ok(t, err)
	if len(list) != 4 || !more || slices.ContainsFunc(list, func(c tenants.Connection) bool { return c.Status == tenants.ConnectionDisconnected }) {
		t.Errorf("without a filter: %d connections, more: %t", len(list), more)
	}
}
