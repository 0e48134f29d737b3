package sdkcompare_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// transcript is what happened in one run of a scenario, in order: the requests that
// arrived in front of the simulator and the outcome of each step.
type transcript struct {
	mu      sync.Mutex
	entries []entry
	names   []name
	counts  map[string]int
}

// entry is a request or, if that is nil, one line about a step.
type entry struct {
	request *request
	line    string
}

// name stands for a random value in the lines of a transcript.
type name struct{ value, name string }

// request is one HTTP request as it arrived. Outcome is the status it was answered
// with, and how the answer ended if it did not end well.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         string
	outcome      string
}

func newTranscript() *transcript { return &transcript{counts: map[string]int{}} }

// note adds a line.
func (t *transcript) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, entry{line: fmt.Sprintf(format, args...)})
}

// call gives a random value a name, kind#1 for the first of its kind, unless it has one.
func (t *transcript) call(kind, value string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, known := range t.names {
		if known.value == value {
			return known.name
		}
	}
	if value == "" {
		return ""
	}
	t.counts[kind]++
	named := fmt.Sprintf("%s#%d", kind, t.counts[kind])
	t.names = append(t.names, name{value, named})
	return named
}

// alias gives a value the name of another one.
func (t *transcript) alias(value, named string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names = append(t.names, name{value, named})
}

// arrive adds a request whose outcome is not known yet.
func (t *transcript) arrive(r *http.Request, body []byte) *request {
	seen := &request{
		method: r.Method, path: r.URL.EscapedPath(), query: r.URL.Query(), header: r.Header.Clone(),
		body: readBody(r.Header.Get("Content-Type"), body),
	}
	for _, hop := range []string{"Connection", "Content-Length", "Keep-Alive", "Transfer-Encoding"} {
		seen.header.Del(hop)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, entry{request: seen})
	return seen
}

// readBody writes a form or a JSON value in one order, and anything else as it is.
func readBody(contentType string, body []byte) string {
	if strings.HasPrefix(contentType, "application/x-www-form-urlencoded") {
		if form, err := url.ParseQuery(string(body)); err == nil {
			return pairs(form)
		}
	}
	var value any
	if len(body) > 0 && json.Unmarshal(body, &value) == nil {
		return ordered(value)
	}
	return string(body)
}

// ordered encodes a value as JSON with its keys in order.
func ordered(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// pairs writes parameters in one order, unescaped.
func pairs(values url.Values) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[key] {
			all = append(all, key+"="+value)
		}
	}
	return strings.Join(all, "&")
}

// String is the request in one line.
func (r *request) String() string {
	var b strings.Builder
	b.WriteString(r.method + " " + r.path)
	if len(r.query) > 0 {
		b.WriteString("?" + pairs(r.query))
	}
	for _, key := range slices.Sorted(maps.Keys(r.header)) {
		b.WriteString(" [" + strings.ToLower(key) + ": " + strings.Join(r.header[key], ", ") + "]")
	}
	if r.body != "" {
		b.WriteString(" " + r.body)
	}
	return b.String() + " -> " + r.outcome
}

// What is random wherever it stands, and never compared by value.
var (
	timePattern   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	idPattern     = regexp.MustCompile(`\b(proj|db|con)_[a-z0-9]{8,}\b`)
	secretPattern = regexp.MustCompile(`"[a-z+]*postgres[a-z]*://[^"]+"|("pass":)"[^"]+"`)
	hostPattern   = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	portPattern   = regexp.MustCompile(`"port":\d+`)
)

// lines renders the transcript, with a name for each random value and equal lines that
// follow each other counted.
func (t *transcript) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortFunc(t.names, func(a, b name) int { return len(b.value) - len(a.value) })
	ids := map[string]string{}
	counts := map[string]int{}
	var lines []string
	for _, e := range t.entries {
		line := e.line
		if e.request != nil {
			line = e.request.String()
		}
		for _, known := range t.names {
			line = strings.ReplaceAll(line, known.value, known.name)
		}
		line = timePattern.ReplaceAllString(line, "<time>")
		line = secretPattern.ReplaceAllString(line, `$1"[secret]"`)
		line = hostPattern.ReplaceAllString(line, "prisma")
		line = portPattern.ReplaceAllString(line, `"port":"<port>"`)
		line = idPattern.ReplaceAllStringFunc(line, func(id string) string {
			if ids[id] == "" {
				kind, _, _ := strings.Cut(id, "_")
				counts[kind]++
				ids[id] = fmt.Sprintf("%s#%d", kind, counts[kind])
			}
			return ids[id]
		})
		lines = append(lines, unfolded(line)...)
	}
	return counted(lines)
}

// maxLine is the longest line that holds a whole value, in bytes.
const maxLine = 300

// unfolded writes a long value as one line for each of its leaves.
func unfolded(line string) []string {
	step, text, ok := strings.Cut(line, ": ok {")
	var value any
	if !ok || len(line) <= maxLine || json.Unmarshal([]byte("{"+text), &value) != nil {
		return []string{line}
	}
	return append([]string{step + ": ok"}, leaves("  ", value)...)
}

// leaves writes a value as one line for each of its leaves, in one order.
func leaves(path string, value any) []string {
	var lines []string
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			lines = append(lines, leaves(path+"."+key, value[key])...)
		}
	case []any:
		for i, item := range value {
			lines = append(lines, leaves(path+"."+strconv.Itoa(i), item)...)
		}
	default:
		lines = append(lines, path+" = "+ordered(value))
	}
	return lines
}

// counted joins equal lines that follow each other into one.
func counted(lines []string) []string {
	var all []string
	for i := 0; i < len(lines); {
		n := 1
		for i+n < len(lines) && lines[i+n] == lines[i] {
			n++
		}
		if n > 1 {
			all = append(all, fmt.Sprintf("%d × %s", n, lines[i]))
		} else {
			all = append(all, lines[i])
		}
		i += n
	}
	return all
}

// drop removes the requests that match and says how many there were, at most limit.
func (t *transcript) drop(limit int, matches func(*request) bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	dropped := 0
	t.entries = slices.DeleteFunc(t.entries, func(e entry) bool {
		if dropped >= limit || e.request == nil || !matches(e.request) {
			return false
		}
		dropped++
		return true
	})
	return dropped
}

// requests calls do with every request.
func (t *transcript) requests(do func(*request)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if e.request != nil {
			do(e.request)
		}
	}
}
