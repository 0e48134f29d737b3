package prisma_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

func TestWorkspaceIDOf(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		token string
		want  string // "": an error
	}{
		"good":              {jwt(`{"iss":"x","workspace_id":"wksp_abc-1","exp":1}`), "wksp_abc-1"},
		"empty":             {"", ""},
		"opaque":            {"opaque", ""},
		"two parts":         {"a.b", ""},
		"four parts":        {accessToken() + ".x", ""},
		"not base64":        {"a.!!!.c", ""},
		"padded base64":     {"a." + base64.URLEncoding.EncodeToString([]byte(`{"workspace_id":"wks"}`)) + ".c", ""},
		"not JSON":          {jwt("nonsense"), ""},
		"array":             {jwt(`["workspace_id"]`), ""},
		"no claim":          {jwt(`{"sub":"u"}`), ""},
		"null":              {jwt(`{"workspace_id":null}`), ""},
		"number":            {jwt(`{"workspace_id":7}`), ""},
		"empty claim":       {jwt(`{"workspace_id":""}`), ""},
		"other case":        {jwt(`{"Workspace_ID":"wksp_1"}`), ""},
		"doubled claim":     {jwt(`{"workspace_id":"wksp_1","workspace_id":"wksp_2"}`), ""},
		"path in the claim": {jwt(`{"workspace_id":"../me"}`), ""},
		"markup":            {jwt(`{"workspace_id":"<b>"}`), ""},
		"line break":        {jwt(`{"workspace_id":"a\nb"}`), ""},
		"claim too long":    {jwt(`{"workspace_id":"` + strings.Repeat("a", 129) + `"}`), ""},
		"token too long":    {jwt(`{"workspace_id":"wksp_1","x":"` + strings.Repeat("a", 20_000) + `"}`), ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := prisma.WorkspaceIDOf(tc.token)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("WorkspaceIDOf() = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func FuzzWorkspaceIDOf(f *testing.F) {
	f.Add(accessToken())
	f.Add("a.b.c")
	f.Add(jwt(`{"workspace_id":null}`))
	f.Add(jwt(`{"workspace_id":"a","workspace_id":"b"}`))
	f.Fuzz(func(t *testing.T, token string) {
		id, err := prisma.WorkspaceIDOf(token)
		if (err == nil) != (id != "") {
			t.Fatalf("WorkspaceIDOf(%q) = %q, %v", token, id, err)
		}
		if len(id) > 128 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			t.Fatalf("WorkspaceIDOf(%q) = %q, which is not a safe id", token, id)
		}
		if err != nil && token != "" && len(token) > 3 && strings.Contains(err.Error(), token) {
			t.Fatalf("the error repeats the token: %v", err)
		}
	})
}

// FuzzTokenResponse feeds bodies through a real request, since the parser is not
// exported: whatever comes, a grant is safe to store and send.
func FuzzTokenResponse(f *testing.F) {
	f.Add(goodAnswer())
	f.Add(`{"access_token":"a","expires_in":"12"}`)
	f.Add(`{"access_token":"a","expires_in":1e999}`)
	f.Add(`{"access_token":"a\n"}`)
	f.Add(`{"access_token":"a"`)
	body := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(<-body))
	}))
	f.Cleanup(server.Close)
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: server.URL})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		body <- text
		grant, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "old")
		if err != nil {
			return
		}
		if grant.ExpiresIn < time.Minute || grant.ExpiresIn > 24*time.Hour {
			t.Errorf("life = %s", grant.ExpiresIn)
		}
		for _, token := range []string{grant.Access, grant.Refresh} {
			if token == "" || len(token) > 16<<10 || strings.ContainsAny(token, "\r\n\x00") {
				t.Errorf("token %q is not safe to keep", token)
			}
		}
	})
}
