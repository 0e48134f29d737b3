package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/api"
)

// The contract is valid, and so is every example in it.
func TestTheContractIsValid(t *testing.T) {
	t.Parallel()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
}

// What is served is the same contract, with another server.
func TestJSONIsTheSameContract(t *testing.T) {
	t.Parallel()
	text, err := api.JSON("https://connect.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(text), `{"openapi":"3.1.0","info":{"title":`) {
		t.Errorf("the order is lost: %.60s", text)
	}
	served, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := served.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
	written, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(served.Servers) != 1 || served.Servers[0].URL != "https://connect.example.com" {
		t.Errorf("the servers are %v", served.Servers)
	}
	served.Servers = written.Servers
	a, errA := json.Marshal(served)
	b, errB := json.Marshal(written)
	if errA != nil || errB != nil || string(a) != string(b) {
		t.Errorf("the JSON form says something else: %v, %v", errA, errB)
	}
}

// Every operation has what a reader needs, and request bodies take nothing unnamed.
func TestEveryOperationIsWhole(t *testing.T) {
	t.Parallel()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || op.Description == "" || len(op.Tags) != 1 || op.Security == nil {
				t.Errorf("%s lacks an id of its own, a summary, a description, a tag or its security", name)
			}
			ids[op.OperationID] = true
			for _, tag := range op.Tags {
				if doc.Tags.Get(tag) == nil {
					t.Errorf("%s has the unknown tag %s", name, tag)
				}
			}
			for _, content := range bodies(op) {
				if content.Example == nil && len(content.Examples) == 0 && content.Schema != nil {
					t.Errorf("%s has a body without an example", name)
				}
			}
			for _, p := range slices.Concat(item.Parameters, op.Parameters) {
				if p.Value.Schema.Value.Type.Is("string") && p.Value.Example == nil && p.Value.Name != "cursor" {
					t.Errorf("%s has no example of %s, which forms and collections show", name, p.Value.Name)
				}
			}
			if op.RequestBody != nil {
				if media := op.RequestBody.Value.Content.Get("application/json"); media.Schema != nil && !closed(media.Schema.Value) {
					t.Errorf("%s takes fields that are not named", name)
				}
			}
		}
	}
	if len(ids) < 34 {
		t.Errorf("%d operations only", len(ids))
	}
}

func bodies(op *openapi3.Operation) []*openapi3.MediaType {
	var all []*openapi3.MediaType
	if op.RequestBody != nil {
		for _, media := range op.RequestBody.Value.Content {
			all = append(all, media)
		}
	}
	for _, response := range op.Responses.Map() {
		for _, media := range response.Value.Content {
			all = append(all, media)
		}
	}
	return all
}

func closed(s *openapi3.Schema) bool {
	return s.Type.Is("object") && s.AdditionalProperties.Has != nil && !*s.AdditionalProperties.Has &&
		!slices.ContainsFunc(s.Required, func(name string) bool { return s.Properties[name] == nil })
}
