package prisma_test

import (
	"encoding/base64"
	"strings"
	"testing"

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
