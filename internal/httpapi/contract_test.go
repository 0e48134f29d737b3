package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"

	"github.com/connect-prisma/server/api"
	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi"
)

// operations are those of the contract, by method and path as the router has them.
func operations(t *testing.T) map[route]*openapi3.Operation {
	t.Helper()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	all := map[route]*openapi3.Operation{}
	for path, item := range doc.Paths.Map() {
		path = strings.NewReplacer("{path}", "*", "{", ":", "}", "").Replace(path)
		for method, op := range item.Operations() {
			all[route{method, path}] = op
		}
	}
	return all
}

// What the contract has, less what is excluded from its server, the router has too, and
// nothing else.
func TestTheRouterHasWhatTheContractHas(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("contract/generate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	options, _ := config["output-options"].(map[string]any)
	excluded, _ := options["exclude-operation-ids"].([]any)
	routed := apiRoutes(t, apitest.New(t))
	all := operations(t)
	for _, r := range routed {
		if all[r] == nil {
			t.Errorf("the contract does not have %s %s", r.method, r.path)
		}
	}
	for r, op := range all {
		if !slices.Contains(routed, r) && !slices.Contains(excluded, any(op.OperationID)) {
			t.Errorf("the router does not have %s %s", r.method, r.path)
		}
	}
}

// Kinds, pages, statuses and the contract say the same.
func TestTheContractListsEveryProblem(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusInternalServerError)
	kinds := map[string]int{"internal": http.StatusInternalServerError}
	for _, kind := range fault.Kinds() {
		kinds[string(kind)] = httpapi.StatusOf(kind)
	}
	for kind := range kinds {
		page := w.NewBrowser().Do(t, http.MethodGet, apitest.PublicURL+"/problems/"+kind, nil)
		if said := page.Text(t); page.Status != http.StatusOK || !strings.Contains(said, "What it means") || len(said) < 120 {
			t.Errorf("the page of %s answered %d: %s", kind, page.Status, said)
		} else {
			for _, status := range httpapi.FurtherStatusesOf(kind) {
				if !strings.Contains(said, fmt.Sprintf("With status %d", status)) {
					t.Errorf("the page of %s does not have the status %d: %s", kind, status, said)
				}
			}
		}
	}
	listed := map[string]bool{}
	for r, op := range operations(t) {
		name := r.method + " " + r.path
		statuses := map[int]bool{}
		names, _ := op.Extensions["x-problems"].([]any)
		for _, one := range names {
			kind := fmt.Sprint(one)
			status, ok := kinds[kind]
			listed[kind], statuses[status] = true, true
			if !ok {
				t.Errorf("%s lists %q, which is no kind", name, kind)
			}
			if response := op.Responses.Status(status); response == nil && op.Responses.Default() == nil {
				t.Errorf("%s lists %s and has no answer %d", name, kind, status)
			} else if response != nil && status != http.StatusServiceUnavailable &&
				!strings.Contains(describes(response), "`"+kind+"`") && op.Responses.Default() == nil {
				t.Errorf("%s: its answer %d does not name %s", name, status, kind)
			}
		}
		for text := range op.Responses.Map() {
			var status int
			if _, err := fmt.Sscan(text, &status); err != nil || status < 400 ||
				slices.Contains([]int{http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable}, status) {
				continue // whatever Prisma answers; or a status that several kinds share
			}
			if !statuses[status] {
				t.Errorf("%s has an answer %d and lists no kind for it", name, status)
			}
		}
	}
	for kind := range kinds {
		if !listed[kind] {
			t.Errorf("no operation lists %s", kind)
		}
	}
	wantTrueExamples(t, kinds)
}

// describes is what stands beside a reference, else what it leads to.
func describes(r *openapi3.ResponseRef) string {
	if r.Description != nil {
		return *r.Description
	}
	return *r.Value.Description
}

// wantTrueExamples holds the problems among the examples against what is really sent.
func wantTrueExamples(t *testing.T, kinds map[string]int) {
	t.Helper()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	look := func(value any) {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var p apitest.Problem
		if err := json.Unmarshal(text, &p); err != nil || p.Type == "" {
			return
		}
		seen++
		same := kinds[p.Kind()] == p.Status || slices.Contains(httpapi.FurtherStatusesOf(p.Kind()), p.Status)
		if p.Title != httpapi.TitleOf(p.Kind()) || !same {
			t.Errorf("the example of %s has the title %q and the status %d", p.Kind(), p.Title, p.Status)
		}
	}
	for _, response := range doc.Components.Responses {
		for _, media := range response.Value.Content {
			look(media.Example)
			for _, example := range media.Examples {
				look(example.Value.Value)
			}
		}
	}
	if seen < 14 {
		t.Errorf("%d problems among the examples", seen)
	}
}

func TestTheContractIsServed(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	browser := w.NewBrowser()
	answer := browser.Do(t, http.MethodGet, apitest.PublicURL+"/openapi.json", nil)
	doc, err := openapi3.NewLoader().LoadFromData(answer.Body)
	if err != nil || answer.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("it is %s: %v", answer.Header.Get("Content-Type"), err)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != apitest.PublicURL {
		t.Errorf("its servers are %v", doc.Servers)
	}
	page := browser.Do(t, http.MethodGet, apitest.PublicURL+"/docs", nil)
	policy := page.Header.Get("Content-Security-Policy")
	if page.Status != http.StatusOK || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") ||
		!strings.Contains(policy, "script-src 'self'") || !strings.Contains(policy, "connect-src 'self'") {
		t.Errorf("the reference: %d, policy %s", page.Status, policy)
	}
	for r, op := range operations(t) {
		if !bytes.Contains(page.Body, []byte(`<h3 id="`+op.OperationID+`">`)) {
			t.Errorf("the reference does not have %s %s", r.method, r.path)
		}
	}
	for _, want := range []string{
		`<code>invalid-request</code></a> <span class="hint">400</span>`, `<code>invalid-request</code></a> <span class="hint">400, 413, 415</span>`,
		`<code>invalid-request</code></a> <span class="hint">400, 413</span>`, `<code>internal</code></a> <span class="hint">500, 503</span>`,
	} {
		if !bytes.Contains(page.Body, []byte(want)) {
			t.Errorf("no call of the reference has %s", want)
		}
	}
	for _, want := range []string{`id="object-Connection"`, `<a href="/problems/default-database">`, "Ada’s workspace", apitest.PublicURL} {
		if !bytes.Contains(page.Body, []byte(want)) {
			t.Errorf("the reference lacks %s", want)
		}
	}
}

// Every field that is wrong is named, each once, and nothing of what it held.
func TestABodyNamesEveryFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	many := make([]string, 0, 100)
	for i := range 100 {
		many = append(many, fmt.Sprintf(`"f%d":1`, i))
	}
	tests := map[string]struct {
		body     string
		status   int
		pointers []string
	}{
		"a type, a length and a name": {
			`{"userId":42,"userLabel":"","Name":1}`, 400, []string{"/Name", "/userId", "/userLabel"},
		},
		"three values":          {`{"userId":"","completion":"` + marker + `","expiresInSeconds":601}`, 422, []string{"/completion", "/expiresInSeconds", "/userId"}},
		"missing, and a value":  {`{"expiresInSeconds":1}`, 400, []string{"/expiresInSeconds", "/userId"}},
		"a hundred names":       {"{" + strings.Join(many, ",") + "}", 400, nil},
		"a whole number as 1e2": {`{"userId":"ada","returnUrl":"` + apitest.ReturnURL + `","expiresInSeconds":6e2}`, 400, []string{"/expiresInSeconds"}},
		"a bad text under a hostile name": {
			`{"userId":"ada","<b>` + marker + `</b>":"\ud800"}`, 400, []string{""},
		},
		"null where it may be absent": {`{"userId":"ada","returnUrl":"` + apitest.ReturnURL + `","userLabel":null,"completion":null,"expiresInSeconds":null}`, 201, nil},
	}
	for name, tc := range tests {
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", tc.body)
		if answer.Status != tc.status || bytes.Contains(answer.Body, []byte(marker)) {
			t.Errorf("%s: %d %s", name, answer.Status, answer.Body)
		}
		if answer.Status == http.StatusCreated {
			continue
		}
		var p apitest.Problem
		answer.JSON(t, &p)
		var pointers []string
		for _, e := range p.Errors {
			pointers = append(pointers, e.Pointer)
			if e.Detail == "" {
				t.Errorf("%s: no advice for %s", name, e.Pointer)
			}
		}
		slices.Sort(pointers)
		if tc.pointers == nil && len(pointers) == 20 {
			continue // enough to go on with
		}
		if !slices.Equal(pointers, tc.pointers) {
			t.Errorf("%s: %v, want %v", name, pointers, tc.pointers)
		}
	}
}
