package httpapi_test

import (
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

func TestConditionalGet(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	get := func(path string, tags ...string) apitest.Answer {
		return w.Call(t, w.Tenant.Key, http.MethodGet, path, nil, http.Header{"If-None-Match": tags})
	}
	one := "/v1/connections/" + connection.ID
	for _, path := range []string{one, "/v1/connections", "/v1/connections?limit=1", one + "/projects", one + "/databases", "/v1/regions"} {
		first := get(path)
		tag := first.Header.Get("ETag")
		if first.Status != http.StatusOK || len(tag) < 12 || tag[0] != '"' || first.Header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("%s: %d, ETag %q, %s", path, first.Status, tag, first.Header.Get("Cache-Control"))
		}
		for _, same := range [][]string{{tag}, {"W/" + tag}, {`"other", ` + tag}, {`"other"`, tag}, {"*"}} {
			if again := get(path, same...); again.Status != http.StatusNotModified || len(again.Body) != 0 ||
				again.Header.Get("ETag") != tag || again.Header.Get("Content-Type") != "" {
				t.Errorf("%s with %v: %d, %d bytes", path, same, again.Status, len(again.Body))
			}
		}
		for _, other := range []string{`"other"`, tag[1 : len(tag)-1], "", "W/"} {
			if again := get(path, other); again.Status != http.StatusOK || len(again.Body) == 0 {
				t.Errorf("%s with %q: %d", path, other, again.Status)
			}
		}
	}
	// Another answer has another tag.
	before := get("/v1/connections").Header.Get("ETag")
	w.Connect(t, w.Tenant, "bob", workspaceB)
	if after := get("/v1/connections", before); after.Status != http.StatusOK || after.Header.Get("ETag") == before {
		t.Errorf("after a change: %d, the tag is the same: %v", after.Status, after.Header.Get("ETag") == before)
	}
	// What is no answer to a GET, or none, has no tag.
	made := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", map[string]string{"userId": "ada", "returnUrl": apitest.ReturnURL})
	missing := get("/v1/connections/cnx_x", "*")
	for _, answer := range []apitest.Answer{made, missing} {
		if answer.Header.Get("ETag") != "" || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d has the tag %q and %s", answer.Status, answer.Header.Get("ETag"), answer.Header.Get("Cache-Control"))
		}
	}
	if missing.Status != http.StatusNotFound {
		t.Errorf("what is missing answered %d", missing.Status)
	}
}
