package managementapi_test

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// mode says how values are made from a schema.
type mode struct {
	optional bool // fields that may be left out are there
	null     bool // what may be null is, and booleans are false
	variant  int  // which variant of a union and value of an enum
	strange  bool // enums have a value, and objects a field, that the document lacks
}

// modes are all ways, by name.
var modes = map[string]mode{
	"every field":     {optional: true},
	"second variants": {optional: true, variant: 1},
	"third variants":  {optional: true, variant: 2},
	"required fields": {},
	"nulls":           {optional: true, null: true},
	"newer interface": {optional: true, strange: true},
}

// maker makes values from schemas; every one of them is different.
type maker struct {
	mode
	count int
}

// encode returns the JSON of a value of the schema.
func (m mode) encode(tb testing.TB, schema *openapi3.SchemaRef) []byte {
	tb.Helper()
	made := &maker{mode: m}
	text, err := json.Marshal(made.value(schema.Value))
	if err != nil {
		tb.Fatal(err)
	}
	if !m.strange {
		if err := validate(schema.Value, text); err != nil {
			tb.Fatalf("the generated value is not of the schema: %v", err)
		}
	}
	return text
}

// value makes a value of the schema.
func (m *maker) value(schema *openapi3.Schema) any {
	m.count++
	switch {
	case schema.Const != nil:
		return schema.Const
	case len(schema.AnyOf) > 0:
		return m.union(schema.AnyOf)
	case len(schema.OneOf) > 0:
		return m.value(schema.OneOf[m.variant%len(schema.OneOf)].Value)
	case schema.Type == nil:
		return m.anything()
	case schema.Type.Is("null"), m.null && schema.Type.IncludesNull():
		return nil
	case len(schema.Enum) > 0:
		if m.strange {
			return fmt.Sprintf("new-%d", m.count)
		}
		return schema.Enum[m.variant%len(schema.Enum)]
	case schema.Type.Includes("object"):
		return m.object(schema)
	case schema.Type.Includes("array"):
		items := []any{}
		for range map[bool]int{true: 2}[m.optional] {
			items = append(items, m.value(schema.Items.Value))
		}
		return items
	case schema.Type.Includes("boolean"):
		return !m.null
	case schema.Type.Includes("number"):
		return m.count
	}
	return m.text(schema.Format)
}

// union makes one of the variants, null among them.
func (m *maker) union(variants openapi3.SchemaRefs) any {
	for _, variant := range variants {
		if isNull := variant.Value.Type.Is("null"); isNull == m.null {
			return m.value(variant.Value)
		}
	}
	return m.value(variants[0].Value)
}

// anything makes a value where the schema allows any.
func (m *maker) anything() any {
	switch {
	case m.null: // nested: the validator takes no null here
		return []any{nil}
	case m.optional:
		return map[string]any{"any": []any{m.count, "text", nil, map[string]any{}}}
	}
	return m.count
}

func (m *maker) object(schema *openapi3.Schema) map[string]any {
	made := map[string]any{}
	names := make([]string, 0, len(schema.Properties))
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if m.optional || slices.Contains(schema.Required, name) {
			made[name] = m.value(schema.Properties[name].Value)
		}
	}
	if further := schema.AdditionalProperties.Schema; further != nil {
		made["further"] = m.value(further.Value)
	}
	if m.strange && len(schema.Properties) > 0 {
		made["newField"] = map[string]any{"newer": []any{1, nil}}
	}
	return made
}

func (m *maker) text(format string) string {
	switch format {
	case "date-time":
		return time.Date(2026, 1, 2, 3, 4, m.count%60, 678e6, time.UTC).Format(time.RFC3339Nano)
	case "uri":
		return fmt.Sprintf("https://example.test/%d?a=b", m.count)
	case "email":
		return fmt.Sprintf("user%d@example.test", m.count)
	}
	return fmt.Sprintf("text-%d", m.count)
}

// validate checks JSON against a schema.
func validate(schema *openapi3.Schema, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if err := schema.VisitJSON(value, openapi3.EnableFormatValidation()); err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	return nil
}

// revealed turns a value of the package's types into what its JSON would be if no secret
// hid itself.
func revealed(tb testing.TB, value reflect.Value) any {
	tb.Helper()
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return nil
		}
		return revealed(tb, value.Elem())
	}
	if secret, ok := reflect.TypeAssert[managementapi.Secret](value); ok {
		return secret.Reveal()
	}
	_, encodes := reflect.TypeAssert[json.Marshaler](value)
	_, prints := reflect.TypeAssert[encoding.TextMarshaler](value)
	switch {
	case value.Kind() == reflect.Map && value.Type().Key().Kind() == reflect.Bool: // nullable.Nullable
		if present := value.MapIndex(reflect.ValueOf(true)); present.IsValid() {
			return revealed(tb, present)
		}
		return nil
	case encodes || prints:
		return decoded(tb, encoded(tb, value.Interface()))
	case value.Kind() == reflect.Struct:
		return revealedFields(tb, value)
	case value.Kind() == reflect.Slice:
		items := []any{}
		for i := range value.Len() {
			items = append(items, revealed(tb, value.Index(i)))
		}
		return items
	}
	return decoded(tb, encoded(tb, value.Interface()))
}

func revealedFields(tb testing.TB, value reflect.Value) map[string]any {
	tb.Helper()
	fields := map[string]any{}
	for i := range value.NumField() {
		name, options, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		field := value.Field(i)
		empty := field.IsZero() || field.Kind() == reflect.Map && field.Len() == 0
		if name == "" || strings.Contains(options, "omitempty") && empty {
			continue
		}
		fields[name] = revealed(tb, field)
	}
	return fields
}

func encoded(tb testing.TB, value any) []byte {
	tb.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		tb.Fatalf("encode a %T: %v", value, err)
	}
	return text
}

func decoded(tb testing.TB, text []byte) any {
	tb.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		tb.Fatalf("decode %q: %v", text, err)
	}
	return value
}
