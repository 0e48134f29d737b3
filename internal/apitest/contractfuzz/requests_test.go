package contractfuzz_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

type rander = *rand.Rand

// request is one request, and what may be answered to it.
type request struct {
	op           operation
	method, path string
	header       http.Header
	body         any // []byte, or nil for none

	ids      map[string]string // what it names, by parameter
	stranger bool              // it comes from the other tenant
	wrong    string            // what is wrong with it
	want     []int             // the statuses that are right for that; empty: any but those of notWant
	notWant  []int
}

// refusals are the statuses that a right request never gets.
func refusals() []int {
	return []int{
		http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
	}
}

// successes are the statuses that a wrong request never gets.
func successes() []int {
	return []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent, http.StatusNotModified}
}

// judge says what is wrong with an answer, "" when nothing is.
func (r request) judge(answer apitest.Answer) string {
	if len(r.want) > 0 && !slices.Contains(r.want, answer.Status) {
		return "want one of " + statuses(r.want)
	}
	if slices.Contains(r.notWant, answer.Status) {
		return "want none of " + statuses(r.notWant)
	}
	if (answer.Status == http.StatusMethodNotAllowed || r.method == http.MethodOptions) && answer.Header.Get("Allow") == "" {
		return "no Allow header"
	}
	return ""
}

func statuses(all []int) string {
	texts := make([]string, 0, len(all))
	for _, one := range all {
		texts = append(texts, strconv.Itoa(one))
	}
	return strings.Join(texts, ", ")
}

// request makes a request of an operation: right in a third of the cases, otherwise with
// one thing wrong.
func (f *fuzzer) request(t *testing.T, op operation) request {
	t.Helper()
	r := request{
		op: op, method: op.method, ids: map[string]string{},
		header: http.Header{"Authorization": {"Bearer " + f.keyFor(t, op)}}, wrong: "nothing",
	}
	for _, p := range op.params {
		if p.In == openapi3.ParameterInPath {
			r.ids[p.Name] = f.ownID(t, op, p.Name)
		}
	}
	query := f.query(op)
	if op.body != nil {
		r.header.Set("Content-Type", "application/json")
		r.body = encode(f.bodyFor(t, op, r))
	}
	if op.takes("Idempotency-Key") && f.IntN(2) == 0 {
		r.header.Set("Idempotency-Key", "key-"+strconv.Itoa(f.IntN(1_000_000_000)))
	}
	if !op.passesThrough() {
		r.notWant = refusals()
	}
	switch f.IntN(12) {
	case 0, 1:
		f.spoilKey(&r)
	case 2, 3:
		f.spoilID(&r)
	case 4:
		f.spoilQuery(&r, query)
	case 5, 6, 7:
		f.spoilBody(&r)
	case 8:
		f.spoilMethod(&r)
	}
	r.path = r.fill(query)
	return r
}

// fill puts the ids into the path.
func (r request) fill(query url.Values) string {
	parts := strings.Split(r.op.path, "/")
	for i, part := range parts {
		name := strings.Trim(part, "{}")
		switch name {
		case part:
		case "path":
			parts[i] = r.ids[name]
		default:
			parts[i] = url.PathEscape(r.ids[name])
		}
	}
	path := strings.Join(parts, "/")
	if text := query.Encode(); text != "" {
		path += "?" + text
	}
	return path
}

// keyFor chooses a key that may call the operation. Rotating uses one up.
func (f *fuzzer) keyFor(t *testing.T, op operation) string {
	t.Helper()
	if op.id == "rotateKey" {
		caller, err := f.world.Store.Authenticate(t.Context(), f.keys.all)
		if err != nil {
			t.Fatal(err)
		}
		return f.world.NewKey(t, caller.Tenant.ID, caller.Scopes...)
	}
	if scoped := f.keys.scoped[op.scope]; scoped != "" && f.IntN(3) == 0 {
		return scoped
	}
	return f.keys.all
}

// ownID chooses something of our tenant's, the first of its kind in half of the cases,
// since most of what exists lies there. What a request would delete is never that.
func (f *fuzzer) ownID(t *testing.T, op operation, name string) string {
	t.Helper()
	if name == "path" {
		return []string{"projects", "databases", "me", "regions/postgres", "workspaces", "nonsense", "connections", "projects/proj_x"}[f.IntN(8)]
	}
	deletes := op.method == http.MethodDelete && strings.HasSuffix(op.path, "{"+name+"}")
	if deletes && name == "connectionId" {
		caller, err := f.world.Store.Authenticate(t.Context(), f.keys.all)
		if err != nil {
			t.Fatal(err)
		}
		user := "user-" + strconv.Itoa(f.IntN(1_000_000_000))
		// Never where the other tenant is: what lies there would rightly be seen.
		return f.world.Connect(t, apitest.Tenant{ID: caller.Tenant.ID, Key: f.keys.all}, user, prismasimtest.WorkspaceA).ID
	}
	if !deletes && f.IntN(2) == 0 {
		return f.ids.kept[name]
	}
	known := f.ids.own[name]
	if deletes {
		known = slices.DeleteFunc(slices.Clone(known), func(id string) bool { return id == f.ids.kept[name] })
	}
	if len(known) == 0 {
		return f.unknownID(name)
	}
	return known[f.IntN(len(known))]
}

// unknownID has the right form, and nothing has it.
func (f *fuzzer) unknownID(name string) string {
	for prefix, of := range prefixes() {
		if of == name {
			id := []byte(prefix + strings.Repeat("a", 26))
			for i := len(prefix); i < len(id); i++ {
				id[i] = "abcdefghijklmnopqrstuvwxyz234567"[f.IntN(32)]
			}
			return string(id)
		}
	}
	return "nothing"
}

// query chooses right values for some of the query parameters.
func (f *fuzzer) query(op operation) url.Values {
	query := url.Values{}
	for _, p := range op.params {
		if p.In != openapi3.ParameterInQuery || p.Name == "cursor" || p.Schema.Value.Type.Is(openapi3.TypeObject) || f.IntN(2) == 0 {
			continue
		}
		if ids := f.ids.own[p.Name]; len(ids) > 0 {
			query.Set(p.Name, ids[f.IntN(len(ids))])
			continue
		}
		query.Set(p.Name, text(f.value(p.Schema.Value, p.Name)))
	}
	if start, end := query.Get("startDate"), query.Get("endDate"); start > end && end != "" {
		query.Set("startDate", end)
	}
	if query.Get("from") >= query.Get("to") {
		query.Del("to")
	}
	return query
}

// bodyFor makes a right body. A session is completed once for real.
func (f *fuzzer) bodyFor(t *testing.T, op operation, r request) any {
	t.Helper()
	if op.id == "completeConnectSession" && f.IntN(4) == 0 {
		caller, err := f.world.Store.Authenticate(t.Context(), f.keys.all)
		if err != nil {
			t.Fatal(err)
		}
		session, code := f.world.Return(t, apitest.Tenant{ID: caller.Tenant.ID, Key: f.keys.all}, "ada", prismasimtest.WorkspaceA, nil)
		r.ids["sessionId"] = session
		return map[string]any{"completionCode": code, "userId": "ada"}
	}
	body := f.value(op.body, "")
	// The rule that the schema can't tell: a database needs a region or a project.
	if object, ok := body.(map[string]any); ok && op.id == "createDatabase" && object["projectId"] == nil {
		object["region"] = f.text(op.body.Properties["region"].Value, "region")
	}
	return body
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // values are maps, slices, texts and numbers
	}
	return text
}
