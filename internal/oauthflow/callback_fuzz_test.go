package oauthflow_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// emptyStore knows no session and notes which one was asked for. Whatever else is
// called panics.
type emptyStore struct {
	oauthflow.Store

	asked []tenants.SessionID
}

// SessionByID implements oauthflow.Store.
func (s *emptyStore) SessionByID(_ context.Context, id tenants.SessionID) (tenants.Session, error) {
	s.asked = append(s.asked, id)
	return tenants.Session{}, fault.New(fault.NotFound, "There is no such session.", nil)
}

// FuzzCallback: whatever query a browser brings, nothing panics, and the database is
// asked only for a query that has one state, one code or error, and nothing doubled or
// empty.
func FuzzCallback(f *testing.F) {
	const issuer = "http://127.0.0.1:1"
	// An id and the 43 characters that end a state.
	id := tenants.SessionID{UUID: uuid.UUID{1}}.String()
	state := "state=" + id + "." + strings.Repeat("s", 43)
	iss := "&iss=" + url.QueryEscape(issuer)
	for _, query := range []string{
		"", "code=c", state, state + "&code=c", state + "&code=c" + iss, state + "&code=c" + iss + iss, state + "&error=access_denied" + iss,
		state + "&code=c&error=x", state + "&" + state + "&code=c", state + "&code=&error=", state + "&code", state + "&code=c&code=d",
		state + "&code=" + strings.Repeat("c", 10<<10), state + "&error=%3Cscript%3E&error_description=%3Cscript%3E", state + "x&code=c",
		"state=&code=c", "state=.&code=c", "state=" + id + ".short&code=c", "state=%00&code=%00", state + "&code=%zz", state + ";code=c",
		"STATE=" + state, strings.ToUpper(state) + "&code=c", state + "&code=c&iss=https://evil.example", "state[]=x&code=c", state + "&code=c#x",
	} {
		f.Add(query)
	}
	keys, err := sealing.ParseCookieKeys(sealing.GenerateCookieKeys())
	if err != nil {
		f.Fatal(err)
	}
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: issuer})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		store := &emptyStore{}
		flow, err := oauthflow.New(oauthflow.Config{
			Store: store, OAuth: oauth, Cookies: keys, PublicURL: "https://connect.example",
			Now: func() time.Time { return time.Unix(1, 0) }, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://connect.example/oauth/callback", nil)
		r.URL.RawQuery = raw
		result, err := flow.Callback(r, tenants.Actor{})
		if err != nil || result.Problem != oauthflow.CallbackBad || result.Redirect != "" || result.Cookie != nil {
			t.Fatalf("Callback(%q) = %+v, %v", raw, result, err)
		}
		if len(store.asked) == 0 {
			return
		}
		query, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatalf("asked although the query %q can't be read", raw)
		}
		for _, name := range []string{"state", "code", "error", "iss"} {
			if values, present := query[name]; present && (len(values) != 1 || values[0] == "" || len(values[0]) > 2048) {
				t.Errorf("asked although %s is there %d times", name, len(values))
			}
		}
		if !strings.HasPrefix(query.Get("state"), store.asked[0].String()+".") || len(store.asked) != 1 {
			t.Errorf("asked for %v, the state is %q", store.asked, query.Get("state"))
		}
		if query.Has("code") == query.Has("error") || query.Has("iss") && query.Get("iss") != issuer {
			t.Errorf("asked for the query %q", raw)
		}
	})
}
