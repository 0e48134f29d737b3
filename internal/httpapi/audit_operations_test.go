package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/api"
	"github.com/connect-prisma/server/internal/apitest"
)

// changing are the operations of the contract that are no GET, and the audit rows that
// each leaves when it succeeds, in their order.
func changing() map[string][]string {
	call := func(actions ...string) []string {
		return slices.Concat([]string{"prisma_call.begun"}, actions)
	}
	return map[string][]string{
		"createConnectSession":   {"connect_session.create"},
		"completeConnectSession": {"connect_session.complete", "connection.connected"},
		"updateConnection":       {"connection.update"},
		"deleteConnection":       {"connection.disconnected"},
		"checkConnection":        {"connection.needs_reconnect"}, // if it comes to that; else it changes nothing
		"createProject":          call("prisma_call.ended", "project.created"),
		"updateProject":          call("prisma_call.ended", "project.updated"),
		"deleteProject":          call("prisma_call.ended", "project.deleted"),
		"createDatabase":         call("prisma_call.ended", "database.created"),
		"updateDatabase":         call("prisma_call.ended", "database.updated"),
		"deleteDatabase":         call("prisma_call.ended", "database.deleted"),
		"restoreDatabase":        call("prisma_call.ended", "database.restored"),
		"createCredentials":      call("prisma_call.ended", "credentials.created"),
		"rotateCredentials":      call("prisma_call.ended", "credentials.rotated"),
		"deleteCredentials":      call("prisma_call.ended", "credentials.deleted"),
		"passThroughPost":        call("prisma_call.ended"),
		"passThroughPut":         call("prisma_call.ended"),
		"passThroughPatch":       call("prisma_call.ended"),
		"passThroughDelete":      call("prisma_call.ended", "database.deleted", "project.deleted"), // of a project with its default database
		"rotateKey":              {"api_key.rotate"},
	}
}

// auditedOperations makes each call of the contract that changes something.
type auditedOperations struct {
	*apitest.World

	methods map[string]string // of the operations that were not called yet
	seen    int               // audit rows so far
}

// auditRow is a row of the audit log.
type auditRow struct {
	Sequence                                            int
	ActorType, ActorID, Action, Target, RequestID, From string
	Operation                                           string
}

// rows returns what was written since the last time.
func (o *auditedOperations) rows(t *testing.T) []auditRow {
	t.Helper()
	list := apitest.Query[[]auditRow](t, o.World, `
		SELECT coalesce(json_agg(json_build_object('Sequence', sequence, 'ActorType', actor_type, 'ActorID', actor_id, 'Action', action,
			'Target', target, 'RequestID', request_id, 'From', coalesce(host(ip), ''), 'Operation', details->>'operation') ORDER BY sequence), '[]')
		FROM audit_log WHERE tenant_id = $1 AND sequence > $2`, o.Tenant.ID, o.seen)
	o.seen += len(list)
	return list
}

// call makes the operation and judges what it wrote: by whom, what, from where and for
// which request. targets are the ids that it is about.
func (o *auditedOperations) call(t *testing.T, operation, path string, body any, targets ...string) apitest.Answer {
	t.Helper()
	o.rows(t)
	answer := o.Call(t, o.Tenant.Key, o.methods[operation], "/v1/"+path, body)
	if answer.Status >= http.StatusBadRequest && operation != "passThroughPut" { // the simulator has none of those
		t.Fatalf("%s answered %d: %s", operation, answer.Status, answer.Body)
	}
	delete(o.methods, operation)
	var made struct{ Data struct{ ID string } }
	if len(targets) == 0 && answer.Status < http.StatusBadRequest {
		answer.JSON(t, &made)
		targets = []string{made.Data.ID}
	}
	var actions []string
	named := false
	for _, row := range o.rows(t) {
		actions = append(actions, row.Action)
		named = named || slices.Contains(targets, row.Target)
		if row.ActorType == "system" && operation == "checkConnection" {
			continue // it is Prisma's doing, and whoever comes upon it first writes it down
		}
		if row.ActorType != "api_key" || !strings.HasPrefix(row.ActorID, "key_") || row.From != "127.0.0.1" ||
			row.RequestID == "" || row.RequestID != answer.Header.Get("X-Request-Id") {
			t.Errorf("%s: the row does not say by whom, from where or for which request: %+v", operation, row)
		}
	}
	if !slices.Equal(actions, changing()[operation]) {
		t.Errorf("%s wrote %q, want %q", operation, actions, changing()[operation])
	}
	if !named {
		t.Errorf("%s: no row names any of %q", operation, targets)
	}
	return answer
}

// Every operation that changes something says in the audit log who did what to what, from
// where and for which request. One that is added to the contract fails here until it is
// called and what it writes is listed.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	o := &auditedOperations{World: apitest.New(t), methods: map[string]string{}}
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if method != http.MethodGet {
				o.methods[op.OperationID] = method
			}
		}
	}
	if len(o.methods) < 20 {
		t.Fatalf("the contract has %d changing operations", len(o.methods))
	}
	id := func(answer apitest.Answer) string { return apitest.Data[struct{ ID string }](t, answer).ID }

	o.call(t, "createConnectSession", "connect-sessions", map[string]string{"userId": "ada", "returnUrl": apitest.ReturnURL})
	session, code := o.Return(t, o.Tenant, "ada", workspaceA, nil)
	connection := id(o.call(t, "completeConnectSession", "connect-sessions/"+session+"/complete",
		map[string]string{"completionCode": code, "userId": "ada"}))
	at := "connections/" + connection
	o.call(t, "updateConnection", at, map[string]any{"metadata": map[string]string{"plan": "pro"}})

	project := id(o.call(t, "createProject", at+"/projects", map[string]string{"name": "shop", "region": "us-east-1"}))
	o.call(t, "updateProject", at+"/projects/"+project, map[string]string{"name": "store"}, project)
	database := id(o.call(t, "createDatabase", at+"/databases", map[string]string{"name": "orders", "projectId": project}))
	one := at + "/databases/" + database
	o.call(t, "updateDatabase", one, map[string]string{"name": "sales"}, database)
	backups := apitest.Data[[]struct{ ID string }](t, o.Call(t, o.Tenant.Key, http.MethodGet, "/v1/"+one+"/backups", nil))
	o.call(t, "restoreDatabase", one+"/restore", map[string]string{"backupId": backups[0].ID}, database)
	credentials := id(o.call(t, "createCredentials", one+"/credentials", map[string]string{"name": "app"}))
	rotated := id(o.call(t, "rotateCredentials", one+"/credentials/"+credentials+"/rotate", nil, credentials))
	o.call(t, "deleteCredentials", one+"/credentials/"+rotated, nil, rotated)
	o.call(t, "deleteDatabase", one, nil, database)
	o.call(t, "deleteProject", at+"/projects/"+project, nil, project)

	passed := at + "/prisma/v1/projects"
	theirs := id(o.call(t, "passThroughPost", passed, map[string]string{"name": "shop"}, "")) // nothing has an id before
	o.call(t, "passThroughPatch", passed+"/"+theirs, map[string]string{"name": "store"}, theirs)
	o.call(t, "passThroughPut", passed+"/"+theirs+"/branches/br_1/application-topology", map[string]any{}, theirs, "br_1")
	o.call(t, "passThroughDelete", passed+"/"+theirs, nil, theirs)

	revokeGrants(t, o.World)
	o.Advance(t, 61*time.Minute)
	o.call(t, "checkConnection", at+"/check", nil, connection)
	o.call(t, "deleteConnection", at, nil, connection)
	own := apitest.Data[struct{ Key struct{ ID string } }](t, o.Call(t, o.Tenant.Key, http.MethodGet, "/v1/tenant", nil)).Key.ID
	o.call(t, "rotateKey", "keys/rotate", map[string]string{"name": "next"}, own)
	for operation := range o.methods {
		t.Errorf("%s changes something, and was not called", operation)
	}
}
