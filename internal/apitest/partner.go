package apitest

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// Tenant is a partner and its key.
type Tenant struct {
	ID  tenants.TenantID
	Key string
}

// NewTenant makes a tenant with a key of all scopes and limits that no test reaches;
// change may alter what it is made of.
func (w *World) NewTenant(t *testing.T, name string, change func(*tenants.TenantInput)) Tenant {
	t.Helper()
	in := tenants.TenantInput{
		Name: name, Client: tenants.OAuthClient{ID: prismasimtest.ClientID, Secret: prismasimtest.ClientSecret},
		ReturnURLs: []string{ReturnURL, OtherReturnURL}, Limits: tenants.Unbound(),
	}
	if change != nil {
		change(&in)
	}
	made, err := w.Store.CreateTenant(t.Context(), tenants.System(), in)
	check(t, err)
	return Tenant{ID: made.ID, Key: w.NewKey(t, made.ID, tenants.AllScopes()...)}
}

// NewKey makes another key of a tenant.
func (w *World) NewKey(t *testing.T, tenant tenants.TenantID, scopes ...tenants.Scope) string {
	t.Helper()
	_, secret, err := w.Store.CreateKey(t.Context(), tenants.System(), tenant, "test", scopes, time.Time{})
	check(t, err)
	w.record.secret("API key", secret)
	return secret
}

// OldKey makes a tenant's key one of before they had a code, by which the service knows
// what it has issued.
func (w *World) OldKey(t *testing.T, of Tenant) string {
	t.Helper()
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	letters := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	body := "cpk_" + letters.EncodeToString(raw[:])
	secret := body + "_" + letters.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
	w.record.secret("API key", secret)
	hash, err := w.keyset.Fingerprint("api key", secret)
	check(t, err)
	admin, err := pgx.Connect(t.Context(), w.DB.AdminURL)
	check(t, err)
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
	changed, err := admin.Exec(t.Context(), `UPDATE api_keys SET key_hash = $2 WHERE tenant_id = $1`, of.ID, hash)
	check(t, err)
	if changed.RowsAffected() != 1 || w.Store.Issued(secret) {
		t.Fatalf("%d keys were changed", changed.RowsAffected())
	}
	return secret
}

// Call sends a request with a key. A body of type string or []byte goes as it is,
// anything else as JSON; nil sends none.
func (w *World) Call(t *testing.T, key, method, path string, body any, headers ...http.Header) Answer {
	t.Helper()
	header := http.Header{"Authorization": {"Bearer " + key}}
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	case []byte:
		text = b
	default:
		var err error
		text, err = json.Marshal(b)
		check(t, err)
	}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	for _, more := range headers {
		maps.Copy(header, more)
	}
	return w.send(t, method, PublicURL+path, header, text)
}

// Stream is an answer whose body is still to be read. It is closed when the test ends, if
// not before.
type Stream struct {
	Status int
	Header http.Header
	io.ReadCloser
}

// Open sends a GET with a key.
func (w *World) Open(t *testing.T, key, path string) (Stream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a test that waits for nothing is to fail
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.listener+path, nil)
	check(t, err)
	request.Host = publicHost
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := w.transport.RoundTrip(request)
	if err != nil {
		return Stream{}, clean(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return Stream{response.StatusCode, response.Header, response.Body}, nil
}

// Session is a connect session as the partner sees it.
type Session struct {
	ID, Status, URL, UserID string
	ConnectionID            *string
}

// CreateSession makes a connect session of that user; more fields may be given.
func (w *World) CreateSession(t *testing.T, tenant Tenant, user string, more map[string]any) Session {
	t.Helper()
	body := map[string]any{"userId": user, "returnUrl": ReturnURL}
	maps.Copy(body, more)
	answer := w.Call(t, tenant.Key, http.MethodPost, "/v1/connect-sessions", body)
	if answer.Status != http.StatusCreated {
		t.Fatalf("create session answered %d: %s", answer.Status, answer.Body)
	}
	return Data[Session](t, answer)
}

// GetSession reads a connect session.
func (w *World) GetSession(t *testing.T, tenant Tenant, id string) Session {
	t.Helper()
	return Data[Session](t, w.Call(t, tenant.Key, http.MethodGet, "/v1/connect-sessions/"+id, nil))
}

// Complete redeems a completion code.
func (w *World) Complete(t *testing.T, key, session, code, user string) Answer {
	t.Helper()
	return w.Call(t, key, http.MethodPost, "/v1/connect-sessions/"+session+"/complete",
		map[string]string{"completionCode": code, "userId": user})
}

// Connection is a connection as the partner sees it.
type Connection struct {
	ID, UserID, Status string
	Workspace          struct{ ID, Name string }
	Diagnosis          Diagnosis
	AccessUntil        time.Time
}

// Diagnosis is how a connection says that it is.
type Diagnosis struct {
	Code, Message, Action string
	Since                 time.Time
}

// Check has a connection looked at.
func (w *World) Check(t *testing.T, tenant Tenant, id string) Connection {
	t.Helper()
	return Data[Connection](t, w.Call(t, tenant.Key, http.MethodPost, "/v1/connections/"+id+"/check", nil))
}

// Connect takes a user of a tenant through the whole flow to a connection.
func (w *World) Connect(t *testing.T, tenant Tenant, user, workspace string) Connection {
	t.Helper()
	return w.ConnectWith(t, tenant, user, workspace, nil)
}

// ConnectWith is Connect with more fields in the session, such as connectionId.
func (w *World) ConnectWith(t *testing.T, tenant Tenant, user, workspace string, more map[string]any) Connection {
	t.Helper()
	session, code := w.Return(t, tenant, user, workspace, more)
	answer := w.Complete(t, tenant.Key, session, code, user)
	if answer.Status != http.StatusOK {
		t.Fatalf("complete answered %d: %s", answer.Status, answer.Body)
	}
	return Data[Connection](t, answer)
}

// Return takes a user up to the return to the partner: the session's id and its
// completion code.
func (w *World) Return(t *testing.T, tenant Tenant, user, workspace string, more map[string]any) (session, code string) {
	t.Helper()
	made := w.CreateSession(t, tenant, user, more)
	back := w.NewBrowser().Finish(t, made.URL, workspace)
	query := back.Query(t)
	if back.Status != http.StatusSeeOther || query.Get("sessionId") != made.ID || query.Get("completionCode") == "" {
		t.Fatalf("the callback answered %d", back.Status)
	}
	return made.ID, query.Get("completionCode")
}

// GetConnection reads a connection.
func (w *World) GetConnection(t *testing.T, tenant Tenant, id string) Connection {
	t.Helper()
	return Data[Connection](t, w.Call(t, tenant.Key, http.MethodGet, "/v1/connections/"+id, nil))
}

// Data decodes a success.
func Data[T any](t *testing.T, answer Answer) T {
	t.Helper()
	var envelope struct{ Data T }
	if answer.Status >= http.StatusBadRequest {
		t.Fatalf("the answer is %d: %s", answer.Status, answer.Body)
	}
	answer.JSON(t, &envelope)
	return envelope.Data
}

// Problem is an error of the API.
type Problem struct {
	Type, Title, Detail, RequestID string
	Status                         int
	Errors                         []struct{ Pointer, Detail string }
}

// Kind is the last part of the problem's type.
func (p Problem) Kind() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

// Names reports whether the problem points at that part of the request.
func (p Problem) Names(pointer string) bool {
	for _, e := range p.Errors {
		if e.Pointer == pointer {
			return true
		}
	}
	return false
}

// WantProblem fails the test unless the answer is a problem of that status and
// kind, and returns it.
func WantProblem(t *testing.T, answer Answer, status int, kind string) Problem {
	t.Helper()
	var p Problem
	if answer.Status != status || answer.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the answer is %d %s, want %d %s", answer.Status, answer.Header.Get("Content-Type"), status, kind)
	}
	if err := json.Unmarshal(answer.Body, &p); err != nil || p.Kind() != kind {
		t.Errorf("the problem is %q, want %q", p.Kind(), kind)
	}
	return p
}

// Pause stops a tenant, or lets it go on.
func (w *World) Pause(t *testing.T, tenant Tenant, paused bool) {
	t.Helper()
	_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), tenant.ID, tenants.TenantChange{Paused: &paused})
	check(t, err)
}
