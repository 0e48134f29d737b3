package httpapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi"
)

// FuzzBodies: whatever a body holds, it is refused with pointers that look like names
// and sentences of ours, or it is one JSON object that a decoder takes.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "[]", `{"userId":"ada"}`, `{"userId":1,"userId":2}`, `{"userId":"\ud800"}`, "{\"a\":\"\xff\"}",
		`{"userId":"ada","expiresInSeconds":1e400}`, `{"userId":"ada","expiresInSeconds":-9223372036854775809}`,
		`{"metadata":{"plan":"team","x":null}}`, `{"metadata":{"<b>":[{}]}}`, `{"metadata":[1,{"a":"b"}]}`, `{"name":"x","region":{}}`,
		`{"completion":"automatic","connectionId":null,"userLabel":"\u202e"}`, `{"backupId":"b","sourceDatabaseId":null}`,
	} {
		f.Add([]byte(seed), uint8(len(seed)))
	}
	var readers []func(*http.Request) error
	for _, id := range []string{"createConnectSession", "completeConnectSession", "updateConnection", "createDatabase", "restoreDatabase", "rotateKey"} {
		read, err := httpapi.BodyReader(id)
		if err != nil {
			f.Fatal(err)
		}
		readers = append(readers, read)
	}
	pointer := regexp.MustCompile(`^(/[A-Za-z0-9_]{1,40})*$`)
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		err := readers[int(which)%len(readers)](r)
		if err == nil {
			left, err := io.ReadAll(r.Body)
			var object map[string]any
			if err != nil || !bytes.Equal(left, body) || json.Unmarshal(left, &object) != nil {
				t.Error("what was let through is no object, or not what was sent")
			}
			return
		}
		refused, ok := errors.AsType[*fault.Error](err)
		if !ok {
			if len(body) <= 64<<10 {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if refused.Kind != fault.InvalidRequest && refused.Kind != fault.InvalidValue || len(refused.Fields) == 0 || len(refused.Fields) > 20 {
			t.Errorf("refused as %s, %d fields", refused.Kind, len(refused.Fields))
		}
		for _, field := range refused.Fields {
			if !pointer.MatchString(field.Pointer) || field.Detail == "" {
				t.Errorf("points at %q", field.Pointer)
			}
		}
	})
}
