package processtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

// PlainClient is a client that follows no redirect: tests want to see each.
func PlainClient() *http.Client {
	return &http.Client{
		Timeout:       CallLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// SendJSON sends one request and returns the answer's status and body. key is the
// bearer token, "" for none; a nil body sends none.
func SendJSON(tb testing.TB, method, target, key string, body any) (int, []byte) {
	tb.Helper()
	status, answer, err := ExchangeJSON(tb.Context(), method, target, key, body)
	if err != nil {
		tb.Fatal(err)
	}
	return status, answer
}

// ExchangeJSON is SendJSON for goroutines that must not end the test.
func ExchangeJSON(ctx context.Context, method, target, key string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := PlainClient().Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// Partner is a partner's backend: it calls the API of one replica with a key.
type Partner struct{ Origin, Key string }

// Partner is the partner that dev has made, at dev\'s own replica.
func (d *Dev) Partner() Partner { return Partner{Origin: d.PublicURL, Key: d.APIKey} }

// Call sends a request that has to succeed and decodes what it says into data.
func (p Partner) Call(tb testing.TB, method, path string, body, data any) {
	tb.Helper()
	status, raw := SendJSON(tb, method, p.Origin+path, p.Key, body)
	if status/100 != 2 {
		tb.Fatalf("%s %s: status %d: %s", method, path, status, raw)
	}
	if err := json.Unmarshal(raw, &struct{ Data any }{data}); err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
}

// ConnectSession is a session as the API shows it.
type ConnectSession struct{ ID, Status, URL string }

// Connection is a connection as the API shows it.
type Connection struct {
	ID, UserID, Status string
	Workspace          struct{ ID, Name string }
}

// Database is a database as the API shows it.
type Database struct {
	ID, Name, ProjectID string
	Credentials         struct{ ID, ConnectionString string }
}

// BeginSession makes a one-time link for a user.
func (p Partner) BeginSession(tb testing.TB, userID, returnURL string) ConnectSession {
	tb.Helper()
	var session ConnectSession
	p.Call(tb, http.MethodPost, "/v1/connect-sessions", map[string]string{"userId": userID, "returnUrl": returnURL}, &session)
	return session
}

// Complete makes the connection of a session that came back with a code.
func (p Partner) Complete(tb testing.TB, session ConnectSession, userID, code string) Connection {
	tb.Helper()
	var made Connection
	p.Call(tb, http.MethodPost, "/v1/connect-sessions/"+session.ID+"/complete",
		map[string]string{"completionCode": code, "userId": userID}, &made)
	return made
}

// CreateDatabase makes a project with a database.
func (p Partner) CreateDatabase(tb testing.TB, c Connection, name string) Database {
	tb.Helper()
	var made Database
	p.Call(tb, http.MethodPost, "/v1/connections/"+c.ID+"/databases",
		map[string]string{"name": name, "region": "eu-central-1"}, &made)
	return made
}

// Connect takes a user through the flow, with the simulator set to approve.
func (d *Dev) Connect(tb testing.TB, userID string) Connection {
	tb.Helper()
	p := d.Partner()
	session := p.BeginSession(tb, userID, d.SampleAppURL+"/callback")
	b := NewCookieBrowser()
	page := b.Get(tb, session.URL)
	returned := b.Follow(tb, b.Submit(tb, page, "form#connect", nil), d.SampleAppURL+"/callback")
	return p.Complete(tb, session, userID, returned.Query().Get("completionCode"))
}
