package passthrough

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/connect-prisma/server/internal/fault"
)

const (
	// maxPath is the longest path in bytes, as it was sent.
	maxPath = 2 << 10
	// maxSegment is the longest part of a path between two slashes, decoded: what the audit
	// log takes as a target.
	maxSegment = 255
	// maxQuery is the longest value of a query parameter, decoded.
	maxQuery = 4 << 10
)

// operation is one call of the Management API.
type operation struct {
	method, path string
	refusal      string   // why it is not passed through; "" if it is
	query        []string // names of the query parameters
	header       []string // canonical names of the header parameters
	segments     []string // of path; those in braces are parameters
	named        bool     // its body names what it uses
}

// String is the operation's name in the audit log.
func (o *operation) String() string { return o.method + " " + o.path }

// changes reports whether the call may change something at Prisma.
func (o *operation) changes() bool { return o.method != http.MethodGet }

// routes are the operations by the number of their segments.
type routes map[int][]*operation

// newRoutes reads the parameters of the decided operations from the interface document.
func newRoutes(document []byte, decided []decision) (routes, error) {
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("read the interface document: %w", err)
	}
	all := make(routes)
	for _, d := range decided {
		op := &operation{method: d.method, path: d.path, refusal: d.refusal, segments: strings.Split(d.path[1:], "/")}
		item := doc.Paths[d.path]
		text, there := item[strings.ToLower(d.method)]
		if !there {
			return nil, errors.New("an operation that is not in the interface document: " + op.String())
		}
		for _, part := range []json.RawMessage{text, []byte(`{"parameters":` + string(orEmpty(item["parameters"])) + `}`)} {
			if err := op.readParameters(part); err != nil {
				return nil, err
			}
		}
		if err := op.readBody(text, doc.Components.Schemas); err != nil {
			return nil, err
		}
		all[len(op.segments)] = append(all[len(op.segments)], op)
	}
	return all, nil
}

func orEmpty(text json.RawMessage) json.RawMessage {
	if len(text) == 0 {
		return json.RawMessage("[]")
	}
	return text
}

func (o *operation) readParameters(text json.RawMessage) error {
	var described struct {
		Parameters []struct {
			In   string `json:"in"`
			Name string `json:"name"`
		} `json:"parameters"`
	}
	if err := json.Unmarshal(text, &described); err != nil {
		return fmt.Errorf("read %s: %w", o, err)
	}
	for _, p := range described.Parameters {
		switch p.In {
		case "query":
			o.query = append(o.query, p.Name)
		case "header":
			o.header = append(o.header, http.CanonicalHeaderKey(p.Name))
		case "path":
		default:
			return fmt.Errorf("%s has a parameter that can't be passed on", o)
		}
	}
	return nil
}

// target is a request that has been understood.
type target struct {
	op   *operation
	path string   // escaped anew
	id   string   // the last parameter of the path: what the call is about; "" if it has none
	uses []string // the ids in the path, less that of what a DELETE deletes
}

// match finds the operation of a method and an escaped path that begins with "/v1/".
//
// Errors: fault.InvalidRequest for a path that programs could read in two ways,
// fault.NotFound for one that is not documented, *methodError for another method, and
// fault.OperationNotAllowed for a refused operation.
func (r routes) match(method, path string) (target, error) {
	segments, err := split(path)
	if err != nil {
		return target{}, err
	}
	var methods []string
	for _, op := range r[len(segments)] {
		if !op.fits(segments) {
			continue
		}
		if op.method != method {
			methods = append(methods, op.method)
			continue
		}
		if op.refusal != allowed {
			return target{}, fault.New(fault.OperationNotAllowed, "This operation is not passed through. "+op.refusal, nil)
		}
		return op.target(segments), nil
	}
	if methods != nil {
		slices.Sort(methods)
		return target{}, &methodError{allowed: methods}
	}
	return target{}, fault.New(fault.NotFound, "Prisma's interface document has no such path.", nil)
}

// methodError is a documented path with another method.
type methodError struct{ allowed []string }

// Error implements error.
func (e *methodError) Error() string { return "the path takes " + strings.Join(e.allowed, ", ") }

func isParameter(segment string) bool { return strings.HasPrefix(segment, "{") }

func (o *operation) fits(segments []string) bool {
	for i, s := range o.segments {
		if !isParameter(s) && s != segments[i] {
			return false
		}
	}
	return true
}

func (o *operation) target(segments []string) target {
	t := target{op: o}
	var path strings.Builder
	for i, s := range segments {
		path.WriteString("/" + url.PathEscape(s))
		if isParameter(o.segments[i]) {
			t.id = s
			if strings.HasSuffix(strings.ToLower(o.segments[i]), "id}") && (o.method != http.MethodDelete || i < len(segments)-1) {
				t.uses = append(t.uses, s)
			}
		}
	}
	t.path = path.String()
	return t
}

// split decodes the segments of a path. It takes one spelling of each: a path that means
// another one after decoding it twice, folding dots or dropping parameters, or that only
// some programs take for the same, is refused.
func split(path string) ([]string, error) {
	odd := fault.New(fault.InvalidRequest, "The path has characters that no address here has.", nil)
	rest, found := strings.CutPrefix(path, "/")
	if !found || len(path) > maxPath {
		return nil, odd
	}
	segments := strings.Split(rest, "/")
	for i, segment := range segments {
		if segment == "" && i == len(segments)-1 { // a slash at the end, or nothing at all
			return nil, fault.New(fault.NotFound, "Prisma's interface document has no such path.", nil)
		}
		decoded, err := url.PathUnescape(segment)
		if err != nil || !plain(decoded) || needless(segment) {
			return nil, odd
		}
		segments[i] = decoded
	}
	return segments, nil
}

// plain reports whether a decoded segment is visible ASCII that means nothing in a path,
// and not made of dots or framed by them.
func plain(segment string) bool {
	if segment == "" || len(segment) > maxSegment || segment[0] == '.' || segment[len(segment)-1] == '.' {
		return false
	}
	return !strings.ContainsFunc(segment, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("/\\%;?#\"<>^`{|}", r)
	})
}

// needless reports whether a segment escapes a character that needs no escape (RFC 3986
// section 2.3), which only somebody does who wants it to be overlooked.
func needless(segment string) bool {
	for i := strings.IndexByte(segment, '%'); i >= 0 && i+2 < len(segment); {
		decoded, err := url.PathUnescape(segment[i : i+3])
		if err != nil || strings.ContainsAny(decoded, "-._~") || isAlphanumeric(decoded) {
			return true
		}
		next := strings.IndexByte(segment[i+3:], '%')
		if next < 0 {
			return false
		}
		i += 3 + next
	}
	return false
}

func isAlphanumeric(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// checkQuery returns the query, written anew. It takes the documented names, each once:
// an undocumented one could turn the call into another, and a name given twice is read
// differently by different programs.
func (o *operation) checkQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", fault.New(fault.InvalidRequest, "The query can't be parsed.", nil)
	}
	for name, given := range values {
		if !slices.Contains(o.query, name) {
			detail := "This operation takes no query parameters."
			if len(o.query) > 0 {
				detail = "This operation takes only the query parameters " + strings.Join(o.query, ", ") + "."
			}
			return "", fault.New(fault.InvalidRequest, detail, nil)
		}
		if len(given) > 1 || len(given[0]) > maxQuery || !utf8.ValidString(given[0]) ||
			strings.ContainsFunc(given[0], func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fault.New(fault.InvalidRequest, "A query parameter is given twice or is not valid text.", nil).
				WithField(name, "Give it once, as UTF-8.")
		}
	}
	return values.Encode(), nil
}
