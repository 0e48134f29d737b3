package managementapi_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// eachAnswer runs check in a parallel subtest for each documented status of every
// operation that begins with one of the digits, and each way to make its body.
func eachAnswer(t *testing.T, digits string, check func(t *testing.T, op operation, status int, how mode)) {
	t.Helper()
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		for _, status := range op.statuses(digits) {
			code, err := strconv.Atoi(status)
			if err != nil {
				t.Fatal(err)
			}
			for name, how := range modes {
				if digits != "2" && (how.variant > 0 || how.null) {
					continue // errors have neither unions nor nulls
				}
				t.Run(status+" "+name, func(t *testing.T) {
					t.Parallel()
					check(t, op, code, how)
				})
			}
		}
	})
}

// What the API answers is what the method returns, field for field, null for null,
// whether the document knows all of it or not.
func TestSuccess(t *testing.T) {
	t.Parallel()
	eachAnswer(t, "2", func(t *testing.T, op operation, status int, how mode) {
		t.Helper()
		schema, media := op.answer(strconv.Itoa(status))
		var body []byte
		if schema != nil {
			body = how.encode(t, schema)
		}
		if media == "application/x-ndjson" {
			body = bytes.Join([][]byte{body, modes["second variants"].encode(t, schema), nil}, []byte("\n"))
		}
		api := serve(t, answering(status, media, string(body)))
		out := op.call(t.Context(), t, api.client(t), op.arguments(t, true, modes["every field"]))
		if out.err != nil {
			t.Fatalf("%s() = %v, for %s", op.name, out.err, body)
		}
		if n := len(api.taken()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		switch {
		case media == "application/x-ndjson":
			checkRecords(t, body, out)
		case schema == nil:
			if out.value.IsValid() {
				t.Errorf("%s() returns a %s, want an error only", op.name, out.value.Type())
			}
		default:
			checkValue(t, decoded(t, body), out, how.strange)
		}
	})
}

func checkRecords(t *testing.T, body []byte, out outcome) {
	t.Helper()
	var want, got []any
	for line := range bytes.Lines(body) {
		want = append(want, decoded(t, line))
	}
	for _, record := range out.records {
		got = append(got, revealed(t, record))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// checkValue compares what was returned with the body, with what is under its "data", or,
// for a Page, with that and the cursor.
func checkValue(t *testing.T, body any, out outcome, strange bool) {
	t.Helper()
	object, _ := body.(map[string]any)
	if strings.HasPrefix(out.value.Type().Name(), "Page[") {
		pagination, _ := object["pagination"].(map[string]any)
		cursor, _ := pagination["nextCursor"].(string)
		if more, _ := pagination["hasMore"].(bool); !more {
			cursor = ""
		}
		if got := out.value.FieldByName("NextCursor").String(); got != cursor {
			t.Errorf("NextCursor = %q, want %q", got, cursor)
		}
		out.value = out.value.FieldByName("Items")
		if out.value.IsNil() {
			t.Error("Items are nil, want an empty slice")
		}
	}
	got := decoded(t, encoded(t, revealed(t, out.value)))
	want := body
	returned, _ := got.(map[string]any)
	if _, whole := returned["data"]; object["data"] != nil && !whole {
		want = object["data"]
	}
	if strange {
		want = withoutNew(want, got)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("returned (-want +got):\n%s", diff)
	}
}

// withoutNew removes from want the fields called newField that got lacks: a type keeps
// the fields it knows, while a union and any JSON keep all.
func withoutNew(want, got any) any {
	switch want := want.(type) {
	case []any:
		other, _ := got.([]any)
		kept := []any{}
		for i, item := range want {
			if i < len(other) {
				item = withoutNew(item, other[i])
			}
			kept = append(kept, item)
		}
		return kept
	case map[string]any:
		other, _ := got.(map[string]any)
		kept := map[string]any{}
		for name, item := range want {
			if _, there := other[name]; !there && name == "newField" {
				continue
			}
			kept[name] = withoutNew(item, other[name])
		}
		return kept
	}
	return want
}

// A documented failure is an *APIError with all that its body says, in its type.
func TestDocumentedFailures(t *testing.T) {
	t.Parallel()
	eachAnswer(t, "345", func(t *testing.T, op operation, status int, how mode) {
		t.Helper()
		schema, media := op.answer(strconv.Itoa(status))
		body := how.encode(t, schema)
		api := serve(t, answering(status, media, string(body)))
		out := op.call(t.Context(), t, api.client(t), op.arguments(t, false, mode{}))
		refusal := asAPI(t, out.err)

		want := managementapi.APIError{Status: status}
		object, _ := decoded(t, body).(map[string]any)
		switch detail := object["error"].(type) {
		case map[string]any:
			want.Code, _ = detail["code"].(string)
			want.Message, _ = detail["message"].(string)
			want.Hint, _ = detail["hint"].(string)
		case string:
			want.Code = detail
			want.Message, _ = object["errorDescription"].(string)
		}
		if refusal.Status != status || refusal.Code != want.Code || refusal.Message != want.Message || refusal.Hint != want.Hint {
			t.Errorf("error = %+v, want %+v", *refusal, want)
		}
		if want.Code == "" || want.Message == "" {
			t.Errorf("the test's body %s has no code or no message", body)
		}
		if text := fmt.Sprintf("prisma: status %d: %s", status, want.Code); out.err.Error() != text {
			t.Errorf("Error() = %q, want %q", out.err, text)
		}
		name := strings.TrimPrefix(schema.Ref, "#/components/schemas/")
		if got := fmt.Sprintf("%T", refusal.Body); got != "*managementapi."+name {
			t.Fatalf("Body is a %s, want a *managementapi.%s", got, name)
		}
		documented := decoded(t, body)
		if how.strange {
			documented = withoutNew(documented, decoded(t, encoded(t, refusal.Body)))
		}
		if diff := cmp.Diff(documented, decoded(t, encoded(t, refusal.Body))); diff != "" {
			t.Errorf("Body (-want +got):\n%s", diff)
		}
	})
}

// A creation that answers 200 where 201 is documented, or the other way round, was done.
func TestOtherSuccess(t *testing.T) {
	t.Parallel()
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		for _, status := range op.statuses("2") {
			schema, media := op.answer(status)
			if media != "application/json" {
				continue
			}
			for _, code := range []int{http.StatusOK, http.StatusCreated} {
				api := serve(t, answering(code, media, string(modes["every field"].encode(t, schema))))
				out := op.call(t.Context(), t, api.client(t), op.arguments(t, false, mode{}))
				if out.err != nil {
					t.Errorf("%d in place of %s: %v", code, status, out.err)
				}
			}
		}
	})
}
