package contractfuzz_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// ids are what later requests can name, by the parameter that names it.
type ids struct {
	own     map[string][]string
	foreign map[string][]string // another tenant's
	gone    map[string][]string // deleted by a request of ours
	kept    map[string]string   // the first of each, which no request deletes
}

// prefixes tell what an id in an answer is of. Backups have none that we know of.
func prefixes() map[string]string {
	return map[string]string{
		"cnx_": "connectionId", "cs_": "sessionId", "proj_": "projectId", "db_": "databaseId", "con_": "credentialsId",
	}
}

// keys are what requests authenticate with.
type keys struct {
	all      string            // of our tenant, with every scope
	scoped   map[string]string // of our tenant, with that scope alone
	stranger string            // of another tenant, with every scope
	revoked  string
}

// newFuzzer makes two tenants that have one of everything.
func newFuzzer(t *testing.T, w *apitest.World, choices rander) *fuzzer {
	t.Helper()
	f := &fuzzer{
		Rand: choices, world: w, operations: operations(t),
		ids:      &ids{map[string][]string{}, map[string][]string{}, map[string][]string{}, map[string]string{}},
		statuses: map[string]map[int]int{}, wrong: map[string]int{},
	}
	unbound := func(in *tenants.TenantInput) { in.Limits = tenants.Unbound() }
	ours, theirs := w.NewTenant(t, "Ours", unbound), w.NewTenant(t, "Theirs", unbound)
	f.keys = keys{all: ours.Key, stranger: theirs.Key, scoped: map[string]string{}, revoked: revokedKey(t, w, ours)}
	for _, scope := range tenants.AllScopes() {
		f.keys.scoped[string(scope)] = w.NewKey(t, ours.ID, scope)
	}
	f.settle(t, ours, f.ids.own, "ada", prismasimtest.WorkspaceA)
	f.settle(t, theirs, f.ids.foreign, "eve", prismasimtest.WorkspaceB)
	for name, known := range f.ids.own {
		f.ids.kept[name] = known[0]
	}
	return f
}

func revokedKey(t *testing.T, w *apitest.World, tenant apitest.Tenant) string {
	t.Helper()
	key, secret, err := w.Store.CreateKey(t.Context(), tenants.System(), tenant.ID, "revoked", tenants.AllScopes(), w.Now().AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.RevokeKey(t.Context(), tenants.System(), tenant.ID, key.ID); err != nil {
		t.Fatal(err)
	}
	w.Secret("API key", secret)
	return secret
}

// settle makes a session, a connection, a project, a database and credentials.
func (f *fuzzer) settle(t *testing.T, tenant apitest.Tenant, into map[string][]string, user, workspace string) {
	t.Helper()
	connection := f.world.Connect(t, tenant, user, workspace).ID
	at := "/v1/connections/" + connection
	made := func(path string, body any) map[string]any {
		t.Helper()
		return apitest.Data[map[string]any](t, f.world.Call(t, tenant.Key, http.MethodPost, path, body))
	}
	into["sessionId"] = []string{f.world.CreateSession(t, tenant, user, nil).ID}
	into["connectionId"] = []string{connection}
	project, _ := made(at+"/projects", map[string]any{"name": "shop", "region": "us-east-1"})["id"].(string)
	database, _ := made(at+"/databases", map[string]any{"name": "orders", "projectId": project})["id"].(string)
	credentials, _ := made(at+"/databases/"+database+"/credentials", map[string]any{"name": "app"})["id"].(string)
	into["projectId"], into["databaseId"], into["credentialsId"] = []string{project}, []string{database}, []string{credentials}
}

// learn takes the ids out of an answer, and forgets what was deleted.
func (i *ids) learn(r request, answer apitest.Answer) {
	if answer.Status >= http.StatusMultipleChoices || r.stranger || r.op.passesThrough() {
		return
	}
	if r.method == http.MethodDelete {
		last := r.op.path[strings.LastIndexByte(r.op.path, '{')+1 : len(r.op.path)-1]
		i.forget(last, r.ids[last])
		return
	}
	var body struct{ Data json.RawMessage }
	if json.Unmarshal(answer.Body, &body) != nil {
		return
	}
	var one map[string]any
	var many []map[string]any
	if json.Unmarshal(body.Data, &one) == nil {
		many = append(many, one)
	} else if json.Unmarshal(body.Data, &many) != nil {
		return
	}
	for _, object := range many {
		id, _ := object["id"].(string)
		i.add(r.op, id)
	}
}

func (i *ids) add(op operation, id string) {
	name := ""
	for prefix, of := range prefixes() {
		if strings.HasPrefix(id, prefix) {
			name = of
		}
	}
	if op.id == "listBackups" {
		name = "backupId"
	}
	if name != "" && !slices.Contains(i.own[name], id) && !slices.Contains(i.gone[name], id) && len(i.own[name]) < 50 {
		i.own[name] = append(i.own[name], id)
	}
}

func (i *ids) forget(name, id string) {
	i.own[name] = slices.DeleteFunc(i.own[name], func(one string) bool { return one == id })
	i.gone[name] = append(i.gone[name], id)
}
