package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/fault"
)

// maxFields is how many fields a problem points at.
const maxFields = 20

// explainSchema turns what the validator says into a problem. Nothing of its text is
// used or kept: it may repeat what the body held.
func explainSchema(err error, body any) error {
	var fields []fault.Field
	parsed := true
	told := map[string]bool{} // objects whose unknown fields are known: each has an error for every one of them
	for _, one := range schemaErrors(err) {
		if one.SchemaField == "properties" {
			object := strings.Join(one.JSONPointer(), "/")
			if told[object] {
				continue
			}
			told[object] = true
		}
		found, form := fieldOf(one, body)
		parsed = parsed && form
		for _, f := range found {
			if len(fields) < maxFields && !slices.Contains(fields, f) {
				fields = append(fields, f)
			}
		}
	}
	if len(fields) == 0 {
		return badBody("", "This is not the documented form.", nil)
	}
	problem := fault.New(fault.InvalidValue, "The request has values that can't be used.", nil)
	if !parsed { // the graver of the two; it names what is refused as well
		problem = fault.New(fault.InvalidRequest, "The body does not have the documented form.", nil)
	}
	problem.Fields = fields
	return problem
}

// schemaErrors flattens what the validator returned.
func schemaErrors(err error) []*openapi3.SchemaError {
	if many, ok := errors.AsType[openapi3.MultiError](err); ok {
		var all []*openapi3.SchemaError
		for _, one := range many {
			all = append(all, schemaErrors(one)...)
		}
		return all
	}
	if one, ok := errors.AsType[*openapi3.SchemaError](err); ok {
		return []*openapi3.SchemaError{one}
	}
	return nil
}

// fieldOf says what is wrong where. parsed: the value has the form that the schema
// wants, and is refused for what it is.
func fieldOf(e *openapi3.SchemaError, body any) (fields []fault.Field, parsed bool) {
	path := e.JSONPointer()
	at := func(detail string) []fault.Field { return []fault.Field{{Pointer: pointerTo(path), Detail: detail}} }
	switch e.SchemaField {
	case "required":
		return at("This field is required."), false
	case "type", "nullable":
		return at("This field needs a value of type " + typeNames(e.Schema) + "."), false
	case "properties":
		return unknownFields(e), false
	case "minimum", "maximum":
		if n, ok := valueAt(body, path).(json.Number); ok {
			if _, err := strconv.ParseInt(n.String(), 10, 64); err != nil { // as absurd as a text
				return at("This field needs a value of type integer."), false
			}
		}
		return at(rangeAdvice(e.Schema)), true
	case "enum":
		return at(enumAdvice(e.Schema)), true
	case "minLength", "maxLength":
		return at(lengthAdvice(e.Schema)), true
	case "maxProperties":
		return at(fmt.Sprintf("Give at most %d names.", *e.Schema.MaxProps)), true
	}
	return at("This value does not have the documented form."), true
}

// unknownFields names all fields that an object should not have.
func unknownFields(e *openapi3.SchemaError) []fault.Field {
	object, _ := e.Value.(map[string]any)
	var fields []fault.Field
	for name := range object {
		if e.Schema.Properties[name] == nil {
			fields = append(fields, fault.Field{
				Pointer: pointerTo(append(e.JSONPointer(), name)),
				Detail:  "This call does not know this field; check its spelling.",
			})
		}
	}
	slices.SortFunc(fields, func(a, b fault.Field) int { return strings.Compare(a.Pointer, b.Pointer) })
	return fields
}

func typeNames(s *openapi3.Schema) string {
	names := slices.DeleteFunc(slices.Clone(s.Type.Slice()), func(name string) bool { return name == openapi3.TypeNull })
	return strings.Join(names, " or ")
}

// pointerTo points at a part of the body, as far as the names on the way look like
// names: anything else would be an echo of the input.
func pointerTo(path []string) string {
	var pointer strings.Builder
	for _, name := range path {
		part := plainPointer(name)
		if part == "" {
			break
		}
		pointer.WriteString(part)
	}
	return pointer.String()
}

// valueAt returns what a body holds there, nil if nothing.
func valueAt(body any, path []string) any {
	for _, name := range path {
		object, _ := body.(map[string]any)
		body = object[name]
	}
	return body
}

// plainPointer points at a field whose name looks like one, those that metadata may have
// among them, "" for any other.
func plainPointer(name string) string {
	for _, r := range name {
		if r != '_' && r != '-' && r != '.' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return ""
		}
	}
	if name == "" || len(name) > 40 {
		return ""
	}
	return "/" + name
}
