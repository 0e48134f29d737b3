package managementapi_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/oapi-codegen/nullable"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// Every field of every request's body can be left out, null and a value where the
// document says so, and each shows on the wire as that.
func TestBodyFields(t *testing.T) {
	t.Parallel()
	var optional, nullables int
	for _, op := range operations(t) {
		ref := op.body()
		if ref == nil || ref.Ref == "" {
			continue
		}
		shape := bodyType(t, op)
		minimal, _ := decoded(t, mode{}.encode(t, ref)).(map[string]any)
		full, _ := decoded(t, modes["every field"].encode(t, ref)).(map[string]any)
		for name, property := range ref.Value.Properties {
			field, ok := fieldOf(shape, name)
			if !ok {
				t.Errorf("%s: %s has no field for %s", op.name, shape, name)
				continue
			}
			required := minimal[name] != nil
			null := property.Value.Type.IncludesNull()
			if isNullable := field.Type.Kind() == reflect.Map && field.Type.Key().Kind() == reflect.Bool; isNullable != null {
				t.Errorf("%s.%s is a %s; the document takes null: %t", shape, field.Name, field.Type, null)
			}
			if isPointer := field.Type.Kind() == reflect.Pointer; isPointer != (!required && !null) {
				t.Errorf("%s.%s is a %s; the document requires it: %t", shape, field.Name, field.Type, required)
			}
			want := maps.Clone(minimal)
			if !required {
				optional++
				checkBody(t, op, shape, want, func(reflect.Value) {}) // left out
			}
			want[name] = full[name]
			checkBody(t, op, shape, want, func(reflect.Value) {})
			if null {
				nullables++
				want[name] = nil
				checkBody(t, op, shape, want, func(body reflect.Value) {
					value := reflect.MakeMap(field.Type)
					value.SetMapIndex(reflect.ValueOf(false), reflect.Zero(field.Type.Elem()))
					body.FieldByIndex(field.Index).Set(value)
				})
			}
			if field.Type.Kind() == reflect.Pointer && field.Type.Elem().Kind() != reflect.Struct {
				want[name] = decoded(t, encoded(t, reflect.Zero(field.Type.Elem()).Interface()))
				checkBody(t, op, shape, want, func(body reflect.Value) { // "", 0 and false are values
					body.FieldByIndex(field.Index).Set(reflect.New(field.Type.Elem()))
				})
			}
		}
	}
	if optional == 0 || nullables == 0 {
		t.Errorf("%d optional and %d nullable fields: the document has some", optional, nullables)
	}
}

// bodyType is the type of the method's body.
func bodyType(t *testing.T, op operation) reflect.Type {
	t.Helper()
	method, ok := reflect.TypeFor[*managementapi.Client]().MethodByName(op.name)
	if !ok {
		t.Fatalf("Client has no method %q", op.name)
	}
	return method.Type.In(method.Type.NumIn() - 1)
}

// fieldOf returns the field whose JSON has the name.
func fieldOf(shape reflect.Type, name string) (reflect.StructField, bool) {
	for field := range shape.Fields() {
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// checkBody builds a body from want, changes it, and compares its JSON with want.
func checkBody(t *testing.T, op operation, shape reflect.Type, want map[string]any, change func(body reflect.Value)) {
	t.Helper()
	body := reflect.New(shape)
	if err := json.Unmarshal(encoded(t, want), body.Interface()); err != nil {
		t.Fatalf("%s: %v", op.name, err)
	}
	change(body.Elem())
	if diff := cmp.Diff(any(want), decoded(t, encoded(t, body.Elem().Interface()))); diff != "" {
		t.Errorf("%s: body (-want +got):\n%s", op.name, diff)
	}
}

// What a caller writes by hand is what is sent.
func TestHandWrittenBodies(t *testing.T) {
	t.Parallel()
	update := func(body managementapi.UpdateDatabaseRequest) func(*managementapi.Client) {
		return func(c *managementapi.Client) { _, _ = c.UpdateDatabase(t.Context(), "db_1", body) }
	}
	create := func(source managementapi.DatabaseSource) func(*managementapi.Client) {
		return func(c *managementapi.Client) {
			_, _ = c.CreateDatabase(t.Context(), managementapi.CreateDatabaseRequest{ProjectID: "proj_1", Source: &source})
		}
	}
	put := func(body json.RawMessage) func(*managementapi.Client) {
		return func(c *managementapi.Client) {
			_, _ = c.PutAlchemyOutput(t.Context(), "p", "b", "s", "t", managementapi.PutAlchemyOutputParams{AlchemyStateLeaseID: "l"}, body)
		}
	}
	tests := map[string]struct {
		call func(*managementapi.Client)
		want string
	}{
		"nothing":    {update(managementapi.UpdateDatabaseRequest{}), `{}`},
		"null":       {update(managementapi.UpdateDatabaseRequest{BranchID: nullable.NewNullNullable[string]()}), `{"branchId":null}`},
		"empty text": {update(managementapi.UpdateDatabaseRequest{BranchID: nullable.NewNullableWithValue(""), Name: new("")}), `{"branchId":"","name":""}`},
		"values":     {update(managementapi.UpdateDatabaseRequest{BranchID: nullable.NewNullableWithValue("b"), Name: new("n<>&")}), `{"branchId":"b","name":"n<>&"}`},
		"zero body": {func(c *managementapi.Client) {
			_, _ = c.CreateProject(t.Context(), managementapi.CreateProjectRequest{})
		}, `{}`},
		"a false": {func(c *managementapi.Client) {
			_, _ = c.CreateProject(t.Context(), managementapi.CreateProjectRequest{CreateDatabase: new(false)})
		}, `{"createDatabase":false}`},
		"empty source":  {create(managementapi.EmptySource{}.DatabaseSource()), `{"projectId":"proj_1","source":{"type":"empty"}}`},
		"backup source": {create(managementapi.BackupSource{DatabaseID: "d", BackupID: "b"}.DatabaseSource()), `{"projectId":"proj_1","source":{"type":"backup","databaseId":"d","backupId":"b"}}`},
		"clone source":  {create(managementapi.CloneSource{DatabaseID: "d"}.DatabaseSource()), `{"projectId":"proj_1","source":{"type":"database","databaseId":"d"}}`},
		"restored source": {func(c *managementapi.Client) {
			_, _ = c.RestoreDatabase(t.Context(), "db", managementapi.RestoreDatabaseRequest{Source: managementapi.BackupSource{DatabaseID: "d", BackupID: "b"}})
		}, `{"source":{"type":"backup","databaseId":"d","backupId":"b"}}`},
		"any JSON":  {put(json.RawMessage(`[1,null,{"a":"b"}]`)), `[1,null,{"a":"b"}]`},
		"JSON null": {put(json.RawMessage(`null`)), `null`},
		"no JSON":   {put(nil), `null`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := serve(t, answering(http.StatusTeapot, "", ""))
			tc.call(api.client(t))
			requests := api.taken()
			if len(requests) != 1 {
				t.Fatalf("%d requests, want 1", len(requests))
			}
			if diff := cmp.Diff(decoded(t, []byte(tc.want)), decoded(t, requests[0].body)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}
