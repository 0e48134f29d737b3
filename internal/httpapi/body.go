package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
)

const (
	// maxBody bounds the bodies of the REST API.
	maxBody = 64 << 10
	// maxDepth bounds how deep JSON may nest; our deepest schema has three levels.
	maxDepth = 16
	// maxValues bounds how many values a body has, names included; the widest that makes
	// sense changes forty metadata. Each that is wrong costs the validator much more than
	// its bytes.
	maxValues = 256
	// maxDigits bounds how long a number is written; an int64 has twenty characters.
	maxDigits = 40
	// maxLimit is the most items of a page, and how many it has when nobody says.
	maxLimit = 100
)

// readBody holds a JSON body against its schema: one object, of known fields, each
// once, each of its type and within its limits, valid UTF-8 and nothing behind it. It
// leaves the bytes in the request for the handler.
//
// What can't be parsed or breaks the schema is a fault.InvalidRequest, a value that is
// refused a fault.InvalidValue; both point at every field that is wrong.
func readBody(r *http.Request, schema *openapi3.Schema) error {
	media, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType))
	if err != nil || media != echo.MIMEApplicationJSON || r.Header.Get(echo.HeaderContentEncoding) != "" {
		return echo.NewHTTPError(http.StatusUnsupportedMediaType)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return echo.NewHTTPError(http.StatusRequestEntityTooLarge)
	}
	if err != nil {
		return badBody("", "The body could not be read.", err)
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return explainJSON(err)
	}
	if err := schema.VisitJSON(value, openapi3.VisitAsRequest(), openapi3.MultiErrors()); err != nil {
		return explainSchema(err, value)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// binder decodes bodies that the contract let through. The generated handlers call it.
type binder struct{}

// Bind implements echo.Binder.
func (binder) Bind(into any, c echo.Context) error {
	if err := json.NewDecoder(c.Request().Body).Decode(into); err != nil {
		return explainJSON(err) // a whole number written as a fraction, for one
	}
	return nil
}

// badBody is a body that can't be parsed or breaks the schema, at pointer.
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
	walk := jsonWalk{decoder: decoder}
	_, err := walk.value("", 0)
	return err
}

// jsonWalk goes through the values of a body.
type jsonWalk struct {
	decoder *json.Decoder
	values  int // so far, names included
}

// value reads the next value, which is at pointer.
func (w *jsonWalk) value(pointer string, depth int) (json.Token, error) {
	if depth > maxDepth {
		return nil, badBody("", "The body is nested too deep.", nil)
	}
	if w.values++; w.values > maxValues {
		return nil, badBody("", "The body has more values than any call takes.", nil)
	}
	token, err := w.decoder.Token()
	if err != nil {
		return nil, badBody(pointer, "This is not valid JSON.", err)
	}
	if text, ok := token.(string); ok && strings.ContainsRune(text, utf8.RuneError) {
		return nil, badBody(pointer, "The text has characters that are not valid Unicode.", nil)
	}
	if number, ok := token.(json.Number); ok && len(number) > maxDigits {
		return nil, badBody(pointer, "The number has too many digits.", nil)
	}
	open, ok := token.(json.Delim)
	if !ok || open == '}' || open == ']' {
		return token, nil
	}
	seen := map[string]bool{}
	for i := 0; w.decoder.More(); i++ {
		child := pointer + "/" + strconv.Itoa(i)
		if open == '{' {
			name, err := w.value(pointer, depth+1)
			if err != nil {
				return nil, err
			}
			text, _ := name.(string)
			child = pointer + plainPointer(text)
			if seen[text] {
				return nil, badBody(child, "This field is given twice.", nil)
			}
			seen[text] = true
		}
		if _, err := w.value(child, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = w.decoder.Token() // the closing bracket
	return token, err
}

// explainJSON says which field can't be decoded, without repeating what it held: after
// the schema that is a whole number which is written as no int64 can be.
func explainJSON(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badBody(pointerTo(strings.Split(e.Field, ".")), "This field needs a value of type integer.", nil)
	}
	return badBody("", "This is not the documented form.", nil)
}

// noBody refuses calls that bring a body where none is meant.
func noBody(r *http.Request) error {
	var one [1]byte
	if n, _ := io.ReadFull(r.Body, one[:]); n > 0 {
		return badBody("", "This call takes no body.", nil)
	}
	return nil
}
