package passthrough

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/connect-prisma/server/internal/tenants"
)

// schema is as much of a JSON schema as tells which fields a body has.
type schema struct {
	Ref        string            `json:"$ref"`
	Properties map[string]schema `json:"properties"`
	OneOf      []schema          `json:"oneOf"`
	AnyOf      []schema          `json:"anyOf"`
	AllOf      []schema          `json:"allOf"`
	Items      *schema           `json:"items"`
}

// names tells whether a body of that schema names what it uses, however deep. visited are the
// schemas that are being looked at.
func (s schema) names(known map[string]schema, visited ...string) bool {
	if name, isRef := strings.CutPrefix(s.Ref, "#/components/schemas/"); isRef {
		return !slices.Contains(visited, name) && known[name].names(known, append(visited, name)...)
	}
	for name, within := range s.Properties {
		if slices.Contains(namesOfUsed(), name) || name == copiedFrom || within.names(known, visited...) {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(s.OneOf, s.AnyOf, s.AllOf), func(one schema) bool { return one.names(known, visited...) }) ||
		s.Items != nil && s.Items.names(known, visited...)
}

// maxNamed is how many ids of one body are noted each by itself.
const maxNamed = 100

// namesOfUsed are the fields of bodies that name what a call uses.
func namesOfUsed() []string { return []string{"projectId", "databaseId", "branchId"} }

// copiedFrom is the field whose "id" names a database too.
const copiedFrom = "fromDatabase"

// readBody notes whether the operation's body names what it uses.
func (o *operation) readBody(text json.RawMessage, known map[string]schema) error {
	var described struct {
		RequestBody struct {
			Content map[string]struct {
				Schema schema `json:"schema"`
			} `json:"content"`
		} `json:"requestBody"`
	}
	if err := json.Unmarshal(text, &described); err != nil {
		return fmt.Errorf("read %s: %w", o, err)
	}
	for _, content := range described.RequestBody.Content {
		o.named = o.named || content.Schema.names(known)
	}
	return nil
}

// uses returns the ids of what the call uses or changes: those in its path, and those that
// its body names where the interface document has such fields. A body that is too long for
// that, is compressed or is no JSON may name anything.
func (x *exchange) uses() ([]string, error) {
	uses := slices.Clone(x.target.uses)
	if !x.op.named || x.body == nil {
		return uses, nil
	}
	reader, _ := x.body.attempt()
	text, err := io.ReadAll(io.LimitReader(reader, keptBody))
	if err != nil {
		return nil, err
	}
	named, whole := namedIn(text)
	if !whole || len(named) > maxNamed || len(text) == keptBody || x.raw.Header.Get("Content-Encoding") != "" {
		return append(uses, tenants.Anything), nil
	}
	return append(uses, named...), nil
}

// namedIn returns the ids that a body names, however deep and however often; false: it is
// not one JSON text.
func namedIn(text []byte) (ids []string, whole bool) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	type level struct {
		object, key bool   // within an object; its next token is a key
		of          string // the field that it is the value of
	}
	var levels []level
	field := ""
	for {
		token, err := decoder.Token()
		if err != nil {
			return ids, errors.Is(err, io.EOF) && len(levels) == 0
		}
		in := len(levels) - 1
		switch {
		case token == json.Delim('}') || token == json.Delim(']'):
			levels = levels[:in]
			continue
		case in >= 0 && levels[in].object && levels[in].key:
			field, _ = token.(string)
			levels[in].key = false
			continue
		case in >= 0:
			levels[in].key = true
		}
		switch value := token.(type) {
		case json.Delim:
			levels = append(levels, level{object: value == '{', key: true, of: field})
		case string:
			if slices.Contains(namesOfUsed(), field) || field == "id" && in >= 0 && levels[in].of == copiedFrom {
				ids = append(ids, value)
			}
		}
	}
}
