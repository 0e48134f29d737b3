package contractfuzz_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/apitest"
)

// value makes a right value of a schema. name is the field's, by which it is known what
// would exist.
func (f *fuzzer) value(s *openapi3.Schema, name string) any {
	if len(s.Enum) > 0 {
		return s.Enum[f.IntN(len(s.Enum))]
	}
	if s.Type.Includes(openapi3.TypeNull) && f.IntN(8) == 0 {
		return nil
	}
	switch {
	case s.Type.Includes(openapi3.TypeObject):
		return f.object(s)
	case s.Type.Includes(openapi3.TypeArray):
		return []any{f.value(s.Items.Value, name)}
	case s.Type.Includes(openapi3.TypeBoolean):
		return f.IntN(2) == 0
	case s.Type.Includes(openapi3.TypeInteger), s.Type.Includes(openapi3.TypeNumber):
		return f.number(s)
	default:
		return f.text(s, name)
	}
}

func (f *fuzzer) object(s *openapi3.Schema) any {
	object := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains(s.Required, name) || f.IntN(2) == 0 {
			object[name] = f.value(s.Properties[name].Value, name)
		}
	}
	if more := s.AdditionalProperties.Schema; more != nil {
		for range f.IntN(4) {
			object["name-"+string(rune('a'+f.IntN(26)))] = f.value(more.Value, "")
		}
	}
	return object
}

func (f *fuzzer) number(s *openapi3.Schema) any {
	least, most := int64(0), int64(math.MaxInt32)
	if s.Min != nil {
		least = int64(*s.Min)
	}
	if s.Max != nil {
		most = min(most, int64(*s.Max))
	}
	switch f.IntN(4) {
	case 0:
		return least
	case 1:
		return most
	}
	return least + f.Int64N(most-least+1)
}

func (f *fuzzer) text(s *openapi3.Schema, name string) string {
	switch name {
	case "returnUrl":
		return apitest.ReturnURL
	case "restartUrl":
		return apitest.OtherReturnURL
	case "region":
		return []string{"us-east-1", "eu-west-3", "ap-southeast-1"}[f.IntN(3)]
	case "backupId", "projectId", "connectionId":
		if known := f.ids.own[name]; len(known) > 0 {
			return known[f.IntN(len(known))]
		}
	case "sourceDatabaseId":
		return f.ids.kept["databaseId"]
	}
	if s.Format == "date-time" {
		return f.world.Now().Add(-time.Duration(f.IntN(40*24)) * time.Hour).UTC().Format(time.RFC3339)
	}
	most := uint64(40)
	if s.MaxLength != nil && (*s.MaxLength < most || f.IntN(10) == 0) {
		most = *s.MaxLength
	}
	runes := []rune("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.äé漢字😀")
	var b strings.Builder
	for range max(s.MinLength, 1) + f.Uint64N(most-max(s.MinLength, 1)+1) {
		if uint64(b.Len()) >= most { // lengths are counted in characters; this is on the safe side
			break
		}
		b.WriteRune(runes[f.IntN(len(runes))])
	}
	return b.String()
}

// text writes a value as a query parameter does.
func text(value any) string { return fmt.Sprint(value) }

// odd returns a value of whatever type.
func (f *fuzzer) odd() any {
	all := []any{
		nil, true, false, 0, -1, 1.5, 1e18, "", "x", " ", strings.Repeat("x", 5000), "\u0000", "a\u202eb", "line\nbreak",
		[]any{},
		[]any{nil},
		map[string]any{},
		map[string]any{"id": 1},
		"'; DROP TABLE tenants; --", "../../etc/passwd", "<script>alert(1)</script>",
		"{{.}}", "%s%n", "\ufeff", "javascript:alert(1)", "https://partner.example@evil.example/", "cnx_", "proj_/../db_x",
	}
	return all[f.IntN(len(all))]
}
