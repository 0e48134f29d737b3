package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/api"
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/web"
)

// showContract serves GET /openapi.json. Other sites' tools may read it.
func (s *Server) showContract(c echo.Context) error {
	header := c.Response().Header()
	header.Set("Access-Control-Allow-Origin", "*")
	return c.JSONBlob(http.StatusOK, s.contractJSON)
}

// showReference serves GET /docs, the contract for people.
func (s *Server) showReference(c echo.Context) error {
	return sendPage(c, http.StatusOK, s.reference, "no-referrer", "'none'", "script-src 'self'", "connect-src 'self'")
}

// newReference makes the page of the contract, in the order in which that is written.
func newReference(doc *openapi3.T, server string) web.ReferencePage {
	page := web.ReferencePage{
		Title: doc.Info.Title, Version: doc.Info.Version, Server: server, About: paragraphs(doc.Info.Description),
	}
	for _, tag := range doc.Tags {
		group := web.ReferenceGroup{
			ID: "chapter-" + strings.ToLower(strings.ReplaceAll(tag.Name, " ", "-")), Name: tag.Name, About: paragraphs(tag.Description),
		}
		for _, path := range inOrder(doc.Paths.Map(), func(p *openapi3.PathItem) *openapi3.Origin { return p.Origin }) {
			item := doc.Paths.Value(path)
			operations := item.Operations()
			for _, method := range inOrder(operations, func(o *openapi3.Operation) *openapi3.Origin { return o.Origin }) {
				if op := operations[method]; slices.Contains(op.Tags, tag.Name) {
					group.Operations = append(group.Operations, referenceOperation(method, path, item, op))
				}
			}
		}
		page.Groups = append(page.Groups, group)
	}
	for _, name := range inOrder(doc.Components.Schemas, schemaOrigin) {
		schema := doc.Components.Schemas[name].Value
		if schema.Type.Is(openapi3.TypeObject) && !isEnvelope(name) && !strings.HasSuffix(name, "Request") {
			page.Objects = append(page.Objects, web.ReferenceObject{
				ID: objectID(name), Name: name, About: paragraphs(schema.Description), Fields: referenceFields("", schema),
			})
		}
	}
	return page
}

func schemaOrigin(ref *openapi3.SchemaRef) *openapi3.Origin { return ref.Origin }

// inOrder returns the names of a map in the order of their lines.
func inOrder[T any](all map[string]T, origin func(T) *openapi3.Origin) []string {
	place := func(name string) (line, column int) {
		if o := origin(all[name]); o != nil && o.Key != nil {
			return o.Key.Line, o.Key.Column
		}
		return 0, 0
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		lineA, columnA := place(a)
		lineB, columnB := place(b)
		return cmp.Or(cmp.Compare(lineA, lineB), cmp.Compare(columnA, columnB), cmp.Compare(a, b))
	})
}

func objectID(name string) string { return "object-" + name }

// isEnvelope reports whether a schema only wraps another.
func isEnvelope(name string) bool {
	return strings.HasSuffix(name, "Answer") || strings.HasSuffix(name, "List")
}

func referenceOperation(method, path string, item *openapi3.PathItem, op *openapi3.Operation) web.ReferenceOperation {
	scope, _ := scopeOf(op) // New has refused a contract without
	shown := web.ReferenceOperation{
		ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, About: paragraphs(op.Description), Scope: string(scope),
	}
	for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
		p := ref.Value
		shown.Parameters = append(shown.Parameters, web.ReferenceField{
			ID: op.OperationID + "-" + p.Name, Name: p.Name, In: p.In, Type: typeOf(p.Schema), Required: p.Required,
			Several: p.Extensions["x-several-segments"] == true, About: spans(p.Description), Example: exampleText(p.Example),
		})
	}
	if op.RequestBody != nil {
		for kind, media := range op.RequestBody.Value.Content {
			shown.BodyType, shown.Examples = kind, examplesOf(media)
			if media.Schema != nil {
				shown.Body = referenceFields("", media.Schema.Value)
			}
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses.Map())) {
		if response := op.Responses.Value(status).Value; status < "4" || status == "default" {
			shown.Answers = append(shown.Answers, referenceAnswer(status, response))
		}
	}
	kinds, _ := op.Extensions["x-problems"].([]any)
	for _, kind := range kinds {
		name, _ := kind.(string)
		k := fault.Kind(name)
		if name == kindName(fault.Internal) {
			k = fault.Internal
		}
		shown.Problems = append(shown.Problems, web.ReferenceProblem{
			Kind: name, Title: explain(k).Title, Status: status(k), Further: furtherOf(op, k),
		})
	}
	return shown
}

// furtherOf are the further statuses of a kind that an operation answers. What is passed
// through has one answer for all statuses, and bodies of any media type.
func furtherOf(op *openapi3.Operation, k fault.Kind) []int {
	var all []int
	for _, one := range further(k) {
		passed := op.Responses.Default() != nil && one.Status != http.StatusUnsupportedMediaType
		if passed || op.Responses.Value(strconv.Itoa(one.Status)) != nil {
			all = append(all, one.Status)
		}
	}
	return all
}

func referenceAnswer(status string, response *openapi3.Response) web.ReferenceAnswer {
	shown := web.ReferenceAnswer{
		Status: status, About: spans(deref(response.Description)), Headers: slices.Sorted(maps.Keys(response.Headers)),
	}
	media := response.Content[echo.MIMEApplicationJSON]
	if media == nil {
		return shown
	}
	shown.Examples = examplesOf(media)
	if media.Schema == nil {
		return shown
	}
	data := media.Schema.Value.Properties["data"]
	if shown.List = data.Value.Type.Is(openapi3.TypeArray); shown.List {
		data = data.Value.Items
	}
	shown.Object = nameOf(data)
	shown.ObjectID = objectID(shown.Object)
	return shown
}

// referenceFields lists an object's fields; those of an object without a name of its
// own stand behind it.
func referenceFields(prefix string, schema *openapi3.Schema) []web.ReferenceField {
	var fields []web.ReferenceField
	for _, name := range inOrder(schema.Properties, schemaOrigin) {
		ref := schema.Properties[name]
		field := web.ReferenceField{
			Name: prefix + name, Type: typeOf(ref), Required: slices.Contains(schema.Required, name), About: spans(ref.Value.Description),
		}
		target := ref
		if ref.Value.Type.Is(openapi3.TypeArray) {
			target = ref.Value.Items
		}
		if target.Value.Type.Is(openapi3.TypeObject) && target.Ref != "" {
			field.Object = objectID(nameOf(target))
		}
		fields = append(fields, field)
		if target.Ref == "" && len(target.Value.Properties) > 0 {
			fields = append(fields, referenceFields(field.Name+".", target.Value)...)
		}
	}
	return fields
}

// nameOf is the name of a schema that is referred to.
func nameOf(ref *openapi3.SchemaRef) string { return ref.Ref[strings.LastIndexByte(ref.Ref, '/')+1:] }

// typeOf says what a value is and what bounds it.
func typeOf(ref *openapi3.SchemaRef) string {
	s := ref.Value
	if s.Type.Is(openapi3.TypeArray) {
		return "list of " + typeOf(s.Items)
	}
	if s.Type.Is(openapi3.TypeObject) && ref.Ref != "" {
		return nameOf(ref)
	}
	text := strings.Join(s.Type.Slice(), " or ")
	switch {
	case len(s.Enum) > 0:
		text = strings.TrimSuffix(strings.TrimPrefix(enumAdvice(s), "Use "), ".")
	case s.Min != nil || s.Max != nil:
		text += strings.TrimSuffix(strings.TrimPrefix(rangeAdvice(s), "Use a whole number"), ".")
	case s.MaxLength != nil:
		text += "," + strings.TrimSuffix(strings.TrimPrefix(lengthAdvice(s), "Give"), ".")
	case s.Format != "":
		text += " (" + s.Format + ")"
	}
	if s.Default != nil {
		text += fmt.Sprintf(", default %v", s.Default)
	}
	return text
}

func examplesOf(media *openapi3.MediaType) []web.ReferenceExample {
	if media.Example != nil {
		return []web.ReferenceExample{{Text: exampleText(media.Example)}}
	}
	var all []web.ReferenceExample
	for _, name := range inOrder(media.Examples, func(r *openapi3.ExampleRef) *openapi3.Origin { return r.Origin }) {
		example := media.Examples[name].Value
		all = append(all, web.ReferenceExample{Name: example.Summary, Text: exampleText(example.Value)})
	}
	return all
}

// exampleText writes a text as it is and anything else as JSON.
func exampleText(value any) string {
	if text, ok := value.(string); ok || value == nil {
		return text
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return ""
	}
	return strings.TrimSpace(out.String())
}

// paragraphs reads the little of Markdown that the contract uses: paragraphs, headings,
// code and bold text.
func paragraphs(text string) []web.Paragraph {
	var all []web.Paragraph
	for block := range strings.SplitSeq(text, "\n\n") {
		block = strings.Join(strings.Fields(block), " ")
		if block == "" {
			continue
		}
		heading, isHeading := strings.CutPrefix(block, "### ")
		all = append(all, web.Paragraph{Heading: isHeading, Spans: spans(heading)})
	}
	return all
}

func spans(text string) []web.Span {
	var all []web.Span
	for i, part := range strings.Split(strings.Join(strings.Fields(" "+text+" "), " "), "`") {
		if i%2 == 1 {
			all = append(all, web.Span{Text: part, Code: true})
			continue
		}
		for j, piece := range strings.Split(part, "**") {
			if piece != "" {
				all = append(all, web.Span{Text: piece, Strong: j%2 == 1})
			}
		}
	}
	return all
}

// loadReference makes what is served of the contract, once: it is always the same.
func (s *Server) loadReference() error {
	doc, err := api.Load()
	if err != nil {
		return err
	}
	if s.contractJSON, err = api.JSON(s.cfg.PublicURL); err != nil {
		return err
	}
	s.reference, err = s.cfg.Pages.Render(newReference(doc, s.cfg.PublicURL))
	return err
}
