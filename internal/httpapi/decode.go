package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
)

const (
	// maxBody bounds the bodies of the REST API.
	maxBody = 64 << 10
	// maxDepth bounds how deep JSON may nest; our deepest schema has three levels.
	maxDepth = 16
	// maxLimit is the most items of a page.
	maxLimit = 100
)

// decode reads a JSON body into T strictly: one object, of known fields, each
// once, each of its type, valid UTF-8 and nothing behind it. What breaks that is
// a fault.InvalidRequest with a pointer.
func decode[T any](c echo.Context) (T, error) {
	var into T
	r := c.Request()
	if media, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType)); err != nil || media != echo.MIMEApplicationJSON {
		return into, echo.NewHTTPError(http.StatusUnsupportedMediaType)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return into, echo.NewHTTPError(http.StatusRequestEntityTooLarge)
	}
	if err != nil {
		return into, badBody("", "The body could not be read.", err)
	}
	if err := checkJSON(body); err != nil {
		return into, err
	}
	if err := checkNames[T](body); err != nil {
		return into, err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields() // deeper down; checkNames has seen the top
	if err := decoder.Decode(&into); err != nil {
		return into, explainJSON(err)
	}
	return into, nil
}

// checkNames refuses fields that T does not have under exactly that name.
// encoding/json takes "USERID" for "userId", and so two fields for one.
func checkNames[T any](body []byte) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(body, &given); err != nil {
		return explainJSON(err)
	}
	known := map[string]bool{}
	for field := range reflect.TypeFor[T]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		known[name] = true
	}
	for name := range given {
		if !known[name] {
			return unknownField(name)
		}
	}
	return nil
}

// unknownField has no cause: the name is the client's own text, and it would be
// logged.
func unknownField(name string) error {
	return badBody(plainPointer(name), "This call does not know this field; check its spelling.", nil)
}

func badBody(pointer, detail string, cause error) *fault.Error {
	return fault.New(fault.InvalidRequest, "The body does not have the documented form.", cause).WithField(pointer, detail)
}

// checkJSON finds what encoding/json would let pass: duplicate names, deep
// nesting, bad UTF-8, lone surrogates, a value that is not an object, trailing
// bytes.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) || !json.Valid(body) {
		return badBody("", "Send one JSON object in valid UTF-8.", nil)
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return badBody("", "Send a JSON object.", nil)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	_, err := walkJSON(decoder, "", 0)
	return err
}

func walkJSON(decoder *json.Decoder, pointer string, depth int) (json.Token, error) {
	if depth > maxDepth {
		return nil, badBody("", "The body is nested too deep.", nil)
	}
	token, err := decoder.Token()
	if err != nil {
		return nil, badBody(pointer, "This is not valid JSON.", err)
	}
	if text, ok := token.(string); ok && strings.ContainsRune(text, utf8.RuneError) {
		return nil, badBody(pointer, "The text has characters that are not valid Unicode.", nil)
	}
	open, ok := token.(json.Delim)
	if !ok || open == '}' || open == ']' {
		return token, nil
	}
	seen := map[string]bool{}
	for i := 0; decoder.More(); i++ {
		child := pointer + "/" + strconv.Itoa(i)
		if open == '{' {
			name, err := walkJSON(decoder, pointer, depth+1)
			if err != nil {
				return nil, err
			}
			text, _ := name.(string)
			child = pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(text)
			if seen[text] {
				return nil, badBody(pointer, "A field is given twice.", nil)
			}
			seen[text] = true
		}
		if _, err := walkJSON(decoder, child, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = decoder.Token() // the closing bracket
	return token, err
}

// explainJSON says which field is wrong, without repeating what it held.
func explainJSON(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badBody("/"+strings.ReplaceAll(e.Field, ".", "/"), "This field needs a value of type "+jsonType(e.Type.Kind().String())+".", err)
	}
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown { // encoding/json has no type for it
		return unknownField(strings.Trim(name, `"`))
	}
	return badBody("", "This is not the documented form.", err)
}

// plainPointer points at a field whose name looks like one; anything else would
// be an echo of the input.
func plainPointer(name string) string {
	for _, r := range name {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return ""
		}
	}
	if name == "" || len(name) > 40 {
		return ""
	}
	return "/" + name
}

func jsonType(kind string) string {
	switch {
	case kind == "bool":
		return "boolean"
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "float"), strings.HasPrefix(kind, "uint"):
		return "number"
	case kind == "struct", kind == "map":
		return "object"
	case kind == "slice":
		return "array"
	}
	return kind
}

// required refuses a body whose field is missing or null.
func required[T any](pointer string, value *T) error {
	if value == nil {
		return badBody(pointer, "This field is required.", nil)
	}
	return nil
}

// firstOf returns the first error of a list of checks.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// deref returns what an optional field holds, else T's zero value.
func deref[T any](value *T) T {
	if value == nil {
		var zero T
		return zero
	}
	return *value
}

// query reads the query strictly: only known names, each once. A name that is
// ignored would make a filter look applied that isn't.
func query(c echo.Context, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "The query can't be parsed.", err)
	}
	for name, given := range values {
		if !slices.Contains(known, name) {
			detail := "This call takes no query parameters."
			if len(known) > 0 {
				detail = "This call takes only the query parameters " + strings.Join(known, ", ") + "."
			}
			return nil, fault.New(fault.InvalidRequest, detail, nil)
		}
		if len(given) > 1 || !utf8.ValidString(given[0]) || strings.ContainsRune(given[0], 0) {
			return nil, fault.New(fault.InvalidRequest, "A query parameter is given twice or is not valid text.", nil).
				WithField(name, "Give it once, as UTF-8.")
		}
	}
	return values, nil
}

// limitOf reads the page size: 1 to 100, 100 when absent.
func limitOf(values url.Values) (int, error) {
	text, given := values["limit"]
	if !given {
		return maxLimit, nil
	}
	n, err := strconv.Atoi(text[0])
	if err != nil || n < 1 || n > maxLimit || strconv.Itoa(n) != text[0] { // "+1" and "01" too
		return 0, fault.New(fault.InvalidRequest, "The limit is out of range.", err).
			WithField("limit", "Use a whole number from 1 to 100.")
	}
	return n, nil
}

// noBody refuses calls that bring a body where none is meant.
func noBody(c echo.Context) error {
	var one [1]byte
	if n, _ := io.ReadFull(c.Request().Body, one[:]); n > 0 {
		return badBody("", "This call takes no body.", nil)
	}
	return nil
}
