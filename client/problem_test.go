package client_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/connect-prisma/server/api"
	"github.com/connect-prisma/server/client"
)

// A Problem has every member that the contract knows, but for the one that repeats others.
func TestProblemsHaveWhatTheContractHas(t *testing.T) {
	t.Parallel()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{"error": true} // detail and kind, in the form of Prisma's errors
	for field := range reflect.TypeFor[client.Problem]().Fields() {
		fields[field.Tag.Get("json")] = true
	}
	members := doc.Components.Schemas["Problem"].Value.Properties
	if len(members) < 12 {
		t.Fatalf("the contract has %d members", len(members))
	}
	for name := range members {
		if !fields[name] {
			t.Errorf("a Problem lacks %s", name)
		}
	}
}

// What a log gets says what to change.
func TestProblemsSayWhatToChange(t *testing.T) {
	t.Parallel()
	problem := &client.Problem{
		Kind: client.InvalidValue, Status: 422, Detail: "Of Ada.", RequestID: "req_1",
		Errors: []client.FieldError{{Pointer: "/region", Detail: "Use one of the regions."}, {Detail: "Send a JSON object."}},
	}
	const want = `connect prisma: 422 invalid-value (request "req_1"): /region Use one of the regions.; Send a JSON object.`
	if got := problem.Error(); got != want {
		t.Errorf("%s", got)
	}
	problem.Errors = nil
	if got := problem.Error(); !strings.HasSuffix(got, `(request "req_1")`) {
		t.Errorf("%s", got)
	}
}
