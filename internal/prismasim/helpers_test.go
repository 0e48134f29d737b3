package prismasim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// dig returns the value at a dotted path of a JSON text, such as
// "data.connections.0.id"; a missing one fails the test.
func dig(t *testing.T, text []byte, path string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	for key := range strings.SplitSeq(path, ".") {
		switch at := value.(type) {
		case map[string]any:
			next, ok := at[key]
			if !ok {
				t.Fatalf("no %q in the answer (path %s)", key, path)
			}
			value = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(at) {
				t.Fatalf("no element %q in the answer (path %s)", key, path)
			}
			value = at[i]
		default:
			t.Fatalf("nothing below %q in the answer (path %s)", key, path)
		}
	}
	return value
}

// text is dig for strings.
func text(t *testing.T, body []byte, path string) string {
	t.Helper()
	value, ok := dig(t, body, path).(string)
	if !ok {
		t.Fatalf("%s is no string", path)
	}
	return value
}

// count is the length of the list at path.
func count(t *testing.T, body []byte, path string) int {
	t.Helper()
	list, ok := dig(t, body, path).([]any)
	if !ok {
		t.Fatalf("%s is no list", path)
	}
	return len(list)
}

// api sends a request and fails the test unless it is answered with want.
func api(t *testing.T, sim *prismasimtest.Server, method, path, token string, body any, want int) []byte {
	t.Helper()
	status, answer := sim.Do(t, method, path, token, body)
	if status != want {
		t.Fatalf("%s %s = %d, want %d", method, path, status, want)
	}
	return answer
}

// made is a project just created, with its database.
type made struct {
	project, database, connection, url string
}

// newProject creates a project with its first database.
func newProject(t *testing.T, sim *prismasimtest.Server, token, name string) made {
	t.Helper()
	body := api(t, sim, http.MethodPost, "/v1/projects", token, map[string]string{"name": name}, http.StatusCreated)
	return made{
		project:    text(t, body, "data.id"),
		database:   text(t, body, "data.database.id"),
		connection: text(t, body, "data.database.connections.0.id"),
		url:        text(t, body, "data.database.connections.0.endpoints.direct.connectionString"),
	}
}

// open connects to a database, to be closed with the test.
func open(t *testing.T, connectionString string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connectionString)
	if err != nil {
		t.Fatalf("open the database: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

// refused fails the test if a connection string still opens a database.
func refused(t *testing.T, connectionString string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connectionString)
	if err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("a connection string that should be dead opened its database")
	}
}

// exec runs statements and fails the test if one fails.
func exec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// one returns the single value of a query.
func one[T any](t *testing.T, conn *pgx.Conn, query string) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

// into returns connectionString with another database in it.
func into(t *testing.T, connectionString, database string) string {
	t.Helper()
	u, err := url.Parse(connectionString)
	if err != nil {
		t.Fatal("parse a connection string")
	}
	u.Path = "/" + database
	return u.String()
}

// answer is what send got, read to its end.
type answer struct {
	StatusCode int
	Header     http.Header
	Body       []byte
}

// Location is where the answer leads.
func (a answer) Location() (*url.URL, error) {
	location := a.Header.Get("Location")
	if location == "" {
		return nil, http.ErrNoLocation
	}
	return url.Parse(location)
}

// send makes a request with these headers and follows no redirect.
func send(t *testing.T, method, address, body string, header http.Header) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	if request.Header == nil {
		request.Header = http.Header{}
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{StatusCode: response.StatusCode, Header: response.Header, Body: text}
}

// form is the header of a form body.
func form() http.Header {
	return http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
}
