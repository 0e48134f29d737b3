package contractfuzz_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/tenants"
)

// spoilKey authenticates badly, or as somebody who may not do this.
func (f *fuzzer) spoilKey(r *request) {
	// Guesses are counted, and too many are told to wait.
	unauthorized := []int{http.StatusUnauthorized, http.StatusTooManyRequests}
	good := r.header.Get("Authorization")
	r.notWant = nil
	switch f.IntN(8) {
	case 0:
		r.wrong, r.want = "no key", unauthorized
		r.header["Authorization"] = nil
	case 1:
		r.wrong, r.want = "a revoked key", unauthorized
		r.header.Set("Authorization", "Bearer "+f.keys.revoked)
	case 2:
		r.wrong, r.want = "a key with a wrong checksum", unauthorized
		r.header.Set("Authorization", good[:len(good)-1]+"!")
	case 3:
		r.wrong, r.want = "another way to authenticate", unauthorized
		r.header.Set("Authorization", "Basic "+strings.TrimPrefix(good, "Bearer "))
	case 4:
		r.wrong, r.want = "two keys", []int{http.StatusBadRequest}
		r.header["Authorization"] = []string{good, good}
	case 5:
		r.wrong, r.want = "a key beside the header", []int{http.StatusBadRequest, http.StatusUnauthorized}
		r.header["Authorization"] = nil
		r.header.Set("X-Api-Key", f.keys.all)
		r.want = unauthorized
	case 6:
		for _, scope := range tenants.AllScopes() {
			if string(scope) != r.op.scope && r.op.scope != "" {
				r.wrong, r.want = "a key of another scope", []int{http.StatusForbidden}
				r.header.Set("Authorization", "Bearer "+f.keys.scoped[string(scope)])
				break
			}
		}
	default:
		r.stranger = true
		r.header.Set("Authorization", "Bearer "+f.keys.stranger)
		r.wrong = "another tenant's key"
		if len(r.ids) > 0 {
			r.notWant = successes()
		}
	}
}

// spoilID names something else than what is ours.
func (f *fuzzer) spoilID(r *request) {
	names := slices.Sorted(maps.Keys(r.ids))
	if len(names) == 0 {
		return
	}
	name := names[f.IntN(len(names))]
	if name == "path" {
		return
	}
	r.notWant = append(refusals(), successes()...)
	if r.op.passesThrough() {
		r.notWant = successes()
	}
	switch choice := f.IntN(4); {
	case choice == 0 && len(f.ids.foreign[name]) > 0:
		r.wrong, r.ids[name] = "another tenant's "+name, f.ids.foreign[name][0]
	case choice == 1 && len(f.ids.gone[name]) > 0:
		r.wrong, r.ids[name] = "a deleted "+name, f.ids.gone[name][f.IntN(len(f.ids.gone[name]))]
		if name == "databaseId" || name == "projectId" {
			r.notWant = successes()
		}
	case choice == 2:
		r.wrong, r.ids[name] = "an unknown "+name, f.unknownID(name)
	default:
		malformed := []string{
			"x", "cnx_", "0", "-1", "null", "undefined", "proj_!", "db_' OR '1'='1", strings.Repeat("a", 300), "cnx_" + strings.Repeat("a", 25),
			"CNX_" + strings.Repeat("A", 26), "db_x y", "db_ä", "[object Object]", "00000000-0000-0000-0000-000000000000",
		}
		r.wrong, r.ids[name] = "a malformed "+name, malformed[f.IntN(len(malformed))]
	}
}

// spoilQuery sends parameters that the operation does not have, or twice, or with a
// value that is none of its own.
func (f *fuzzer) spoilQuery(r *request, query url.Values) {
	if r.op.passesThrough() {
		return
	}
	bad := map[string][]string{
		"limit": {"-1", "0", "101", "1e9", "abc", "", "+1", "01", "1.0", "١"}, "status": {"nope", "", "ACTIVE"}, "revoke": {"yes", "", "1", "TRUE"},
		"after": {"-1", "x", "", "9223372036854775808"}, "startDate": {"yesterday", "", "2026-13-01T00:00:00Z"}, "userId": {""},
		"projectId": {""}, "workspaceId": {""},
	}
	r.notWant, r.want = nil, []int{http.StatusBadRequest}
	var names []string
	for _, p := range r.op.params {
		if p.In == openapi3.ParameterInQuery && bad[p.Name] != nil {
			names = append(names, p.Name)
		}
	}
	switch choice := f.IntN(3); {
	case choice == 0 && len(names) > 0:
		name := names[f.IntN(len(names))]
		r.wrong = "a query parameter with a wrong value"
		query.Set(name, bad[name][f.IntN(len(bad[name]))])
	case choice == 1 && len(names) > 0:
		name := names[f.IntN(len(names))]
		r.wrong = "a query parameter twice"
		query[name] = []string{"1", "1"}
	default:
		r.wrong = "an unknown query parameter"
		query.Set([]string{"tenant", "Limit", "user_id", "limit ", "limit[]", "__proto__"}[f.IntN(6)], "1")
	}
}

// spoilMethod uses a method that no operation has at this address.
func (f *fuzzer) spoilMethod(r *request) {
	if r.op.passesThrough() {
		return
	}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "PROPFIND"}
	method := methods[f.IntN(len(methods))]
	for _, op := range f.operations {
		if op.method == method && fits(op.path, r.op.path) {
			return
		}
	}
	r.wrong, r.method, r.want, r.notWant = "a method that the address does not take", method, []int{http.StatusMethodNotAllowed}, nil
	if method == http.MethodOptions { // which asks for just that
		r.want = []int{http.StatusNoContent}
	}
}

// fits reports whether two templates stand for the same addresses.
func fits(a, b string) bool {
	one, other := strings.Split(a, "/"), strings.Split(b, "/")
	return slices.EqualFunc(one, other, func(x, y string) bool {
		return x == y || strings.HasPrefix(x, "{") && strings.HasPrefix(y, "{")
	})
}

// spoilBody breaks the body's form, or puts odd values where others belong.
func (f *fuzzer) spoilBody(r *request) {
	if r.op.passesThrough() {
		return
	}
	if r.op.body == nil {
		if r.op.method != http.MethodGet {
			r.wrong, r.body, r.want, r.notWant = "a body where none is taken", []byte(`{"name":"x"}`), []int{http.StatusBadRequest}, nil
		}
		return
	}
	right, _ := r.body.([]byte)
	r.notWant, r.want = nil, []int{http.StatusBadRequest, http.StatusUnprocessableEntity}
	switch f.IntN(4) {
	case 0:
		r.wrong, r.body = "a body that is not one JSON object", f.notAnObject(right)
	case 1:
		r.wrong, r.want = "a body of another type", []int{http.StatusUnsupportedMediaType}
		r.header["Content-Type"] = [][]string{nil, {"text/plain"}, {"multipart/form-data; boundary=x"}, {"application/jsonx"}, {";"}}[f.IntN(5)]
	case 2:
		r.wrong, r.want = "a body that is too large", []int{http.StatusRequestEntityTooLarge}
		r.body = append(bytes.Repeat([]byte(" "), 64<<10), right...)
	default:
		r.wrong = "a body with a wrong value"
		r.body = f.oddBody(right)
		r.want = nil
		if breaks(r.op.body, r.body.([]byte)) {
			r.wrong = "a body that breaks the schema"
			r.want = []int{http.StatusBadRequest, http.StatusUnprocessableEntity}
		}
	}
}

func (f *fuzzer) notAnObject(right []byte) []byte {
	all := []string{
		"", "{", "[]", "null", `"x"`, "1", "\xff", "\ufeff" + string(right), string(right) + "x", string(right) + string(right),
		strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), `{"name":"a","name":"b"}`, `{"name":"\ud800"}`, `{"name":1e400}`, "{\"name\":\"\x00\"}",
		`{"name":NaN}`, `{name:"x"}`, `{"name":"x",}`, "// x\n{}",
	}
	return []byte(all[f.IntN(len(all))])
}

// oddBody changes one thing of a right body: a value, a field more, a field less.
func (f *fuzzer) oddBody(right []byte) []byte {
	object := map[string]any{}
	if err := json.Unmarshal(right, &object); err != nil {
		panic(err) // value makes objects
	}
	names := slices.Sorted(maps.Keys(object))
	switch choice := f.IntN(5); {
	case choice == 0:
		object[[]string{"tenantId", "id", "Name", "__proto__", "", "a/b", "a~b"}[f.IntN(7)]] = "x"
	case choice == 1 && len(names) > 0:
		delete(object, names[f.IntN(len(names))])
	case len(names) > 0:
		object[names[f.IntN(len(names))]] = f.odd()
	}
	return encode(object)
}

// breaks reports whether the contract's schema refuses a body.
func breaks(schema *openapi3.Schema, body []byte) bool {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return true
	}
	return schema.VisitJSON(value, openapi3.VisitAsRequest()) != nil
}
