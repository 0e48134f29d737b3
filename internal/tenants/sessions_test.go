package tenants_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

func (s *service) status(t *testing.T, x tenants.Session) tenants.SessionStatus {
	t.Helper()
	got, err := s.Session(t.Context(), x.Tenant, x.ID)
	ok(t, err)
	return got.Status
}

func TestCreateSession(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	ctx, by := t.Context(), tenants.System()
	connection := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	x, link, err := s.CreateSession(ctx, by, tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
	ok(t, err)
	if x.Status != tenants.SessionCreated || x.UserLabel != "user" || x.Completion != tenants.CompletionCode || len(link) != 43 ||
		x.ExpiresAt.Sub(x.CreatedAt) != tenants.SessionLife || !x.Open() || x.Tenant != tenant {
		t.Errorf("CreateSession() = %+v, a link of %d characters", x, len(link))
	}
	found, err := s.SessionByLink(ctx, link)
	ok(t, err)
	byID, err := s.SessionByID(ctx, x.ID)
	ok(t, err)
	if found.ID != x.ID || byID.ID != x.ID || found.Tenant != tenant {
		t.Errorf("by link %s, by id %s, want %s", found.ID, byID.ID, x.ID)
	}
	_, err = s.SessionByLink(ctx, tenants.RandomToken())
	wantKind(t, "an unknown link", err, fault.NotFound)
	_, err = s.SessionByID(ctx, tenants.SessionID(connection.ID))
	wantKind(t, "an unknown id", err, fault.NotFound)

	tests := map[string]struct {
		change func(in *tenants.NewSession)
		field  string // "": another error
		want   fault.Kind
	}{
		"no user":                            {func(in *tenants.NewSession) { in.UserID = "" }, "/userId", fault.InvalidValue},
		"a user of 256 characters":           {func(in *tenants.NewSession) { in.UserID = strings.Repeat("u", 256) }, "/userId", fault.InvalidValue},
		"a user of 255 characters":           {func(in *tenants.NewSession) { in.UserID = strings.Repeat("ü", 255) }, "", fault.Internal},
		"a label that changes its direction": {func(in *tenants.NewSession) { in.UserLabel = "a\u202eb" }, "/userLabel", fault.InvalidValue},
		"a label with a line break":          {func(in *tenants.NewSession) { in.UserLabel = "a\nb" }, "/userLabel", fault.InvalidValue},
		"no return URL":                      {func(in *tenants.NewSession) { in.ReturnURL = "" }, "/returnUrl", fault.InvalidValue},
		"a return URL with a slash more":     {func(in *tenants.NewSession) { in.ReturnURL += "/" }, "/returnUrl", fault.InvalidValue},
		"a return URL with a query":          {func(in *tenants.NewSession) { in.ReturnURL += "?next=https://evil.example" }, "/returnUrl", fault.InvalidValue},
		"a return URL in capitals":           {func(in *tenants.NewSession) { in.ReturnURL = strings.ToUpper(in.ReturnURL) }, "/returnUrl", fault.InvalidValue},
		"another restart URL":                {func(in *tenants.NewSession) { in.RestartURL = "https://evil.example" }, "/restartUrl", fault.InvalidValue},
		"a registered restart URL":           {func(in *tenants.NewSession) { in.RestartURL = returnURL }, "", fault.Internal},
		"too short":                          {func(in *tenants.NewSession) { in.Life = time.Second }, "/expiresInSeconds", fault.InvalidValue},
		"too long":                           {func(in *tenants.NewSession) { in.Life = time.Hour }, "/expiresInSeconds", fault.InvalidValue},
		"negative":                           {func(in *tenants.NewSession) { in.Life = -time.Minute }, "/expiresInSeconds", fault.InvalidValue},
		"an unknown completion":              {func(in *tenants.NewSession) { in.Completion = "magic" }, "/completion", fault.InvalidValue},
		"automatic without a return URL": {func(in *tenants.NewSession) {
			in.Completion, in.ReturnURL = tenants.CompletionAutomatic, ""
		}, "", fault.Internal},
		"a reconnect":                 {func(in *tenants.NewSession) { in.ConnectionID = connection.ID }, "", fault.Internal},
		"a reconnect of another user": {func(in *tenants.NewSession) { in.ConnectionID, in.UserID = connection.ID, "other" }, "/userId", fault.InvalidValue},
		"a reconnect of nothing":      {func(in *tenants.NewSession) { in.ConnectionID = tenants.ConnectionID(x.ID) }, "", fault.NotFound},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := tenants.NewSession{UserID: "user", ReturnURL: returnURL}
			tc.change(&in)
			_, _, err := s.CreateSession(t.Context(), by, tenant, in)
			wantKind(t, "CreateSession()", err, tc.want)
			if tc.field != "" && !slices.Contains(fields(err), tc.field) {
				t.Errorf("the error points at %v, want %s", fields(err), tc.field)
			}
			if err != nil && strings.Contains(err.Error(), "evil") {
				t.Error("the error repeats the input")
			}
		})
	}
}

func TestClick(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	ctx, by := t.Context(), tenants.System()
	x := s.created(t, tenant, tenants.NewSession{})
	click := func(state, browser string) error {
		return s.StartSession(ctx, by, x, tenants.Start{
			State: state, Browser: browser, ClientID: clientID, RedirectURI: redirectURI,
		})
	}
	ok(t, click("one", "mine"))
	wantKind(t, "a browser without a cookie", click("two", ""), fault.NotFound)
	wantKind(t, "a second browser", click("two", "other"), fault.NotFound)
	ok(t, click("two", "mine"))
	got, err := s.Session(ctx, tenant, x.ID)
	ok(t, err)
	client, redirect := got.StartedWith()
	if !got.MatchesState("two") || got.MatchesState("one") || got.MatchesState("") || client != clientID || redirect != redirectURI {
		t.Errorf("started with %s and %s, matches: %t %t", client, redirect, got.MatchesState("two"), got.MatchesState("one"))
	}
	if !got.MatchesClient(clientID, redirectURI) || got.MatchesClient(clientID, "") || got.MatchesClient("", redirectURI) ||
		x.MatchesClient("", "") || x.MatchesState("") {
		t.Error("MatchesClient() or MatchesState() takes what does not match")
	}
	_, err = s.ReturnSession(ctx, by, x, tenants.Return{State: "one", Code: "c", Verifier: "v"})
	wantKind(t, "a return with the state before", err, fault.NotFound)
	_, err = s.ReturnSession(ctx, by, x, tenants.Return{State: "two", Code: "c", Verifier: "v"})
	ok(t, err)
	wantKind(t, "a click after the return", click("three", "mine"), fault.NotFound)
}

// Fifty browsers click at once, and fifty callbacks of one state come at once: one
// of each gets through.
func TestParallelArrows(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.System()
	race := func(call func() error) (won int) {
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				err := call()
				mu.Lock()
				defer mu.Unlock()
				kind := fault.KindOf(err)
				if err == nil {
					won++
				} else if kind != fault.NotFound && kind != fault.CompletionInProgress {
					t.Errorf("one of fifty: %v", err)
				}
			})
		}
		all.Wait()
		return won
	}
	x := s.created(t, tenant, tenants.NewSession{})
	if n := race(func() error {
		return s.StartSession(t.Context(), by, x, tenants.Start{State: tenants.RandomToken(), ClientID: clientID, RedirectURI: redirectURI})
	}); n != 1 {
		t.Errorf("%d of 50 clicks got through, want 1", n)
	}
	y := s.started(t, tenant, tenants.NewSession{})
	var mu sync.Mutex
	var code string
	if n := race(func() error {
		got, err := s.ReturnSession(t.Context(), by, y, tenants.Return{State: "state", Code: "c", Verifier: "v"})
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			code = got
		}
		return err
	}); n != 1 {
		t.Errorf("%d of 50 callbacks got through, want 1", n)
	}
	if n := race(func() error {
		claim, err := s.ClaimCompletion(t.Context(), by, tenant, y.ID, code, "user")
		if err == nil && (claim.Code != "c" || claim.Verifier != "v") {
			t.Error("a completion was claimed without its code")
		}
		return err
	}); n != 1 {
		t.Errorf("%d of 50 completions got the code, want 1", n)
	}
	if one[bool](t, s, `SELECT bool_or(code_sealed IS NOT NULL OR verifier_sealed IS NOT NULL) FROM connect_sessions`) {
		t.Error("the code is still in the row")
	}
}

// Every method against every status: what is no arrow of the drawing is refused and
// changes nothing.
func TestArrows(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.System()
	type moved struct {
		x    tenants.Session
		code string
	}
	end := func(x tenants.Session, as, from tenants.SessionStatus) moved {
		ended, err := s.EndSession(t.Context(), by, x, tenants.Ending{Status: as}, from)
		ok(t, err)
		if !ended {
			t.Fatalf("a session that is %s did not end as %s", from, as)
		}
		return moved{x: x, code: "code"}
	}
	reach := map[tenants.SessionStatus]func() moved{
		tenants.SessionCreated: func() moved { return moved{s.created(t, tenant, tenants.NewSession{}), "code"} },
		tenants.SessionStarted: func() moved { return moved{s.started(t, tenant, tenants.NewSession{}), "code"} },
		tenants.SessionReturned: func() moved {
			x, code := s.returned(t, tenant, tenants.NewSession{})
			return moved{x, code}
		},
		tenants.SessionCompleting: func() moved {
			x, code := s.returned(t, tenant, tenants.NewSession{})
			_, err := s.ClaimCompletion(t.Context(), by, tenant, x.ID, code, "user")
			ok(t, err)
			return moved{x, code}
		},
		tenants.SessionConnected: func() moved {
			x, code := s.returned(t, tenant, tenants.NewSession{})
			claim, err := s.ClaimCompletion(t.Context(), by, tenant, x.ID, code, "user")
			ok(t, err)
			_, err = s.FinishSession(t.Context(), by, claim.Session, clientID, s.pair(t, x.ID.String(), "wksp_1"))
			ok(t, err)
			return moved{x, code}
		},
		tenants.SessionDenied: func() moved {
			return end(s.started(t, tenant, tenants.NewSession{}), tenants.SessionDenied, tenants.SessionStarted)
		},
		tenants.SessionExpired: func() moved {
			return end(s.created(t, tenant, tenants.NewSession{}), tenants.SessionExpired, tenants.SessionCreated)
		},
		tenants.SessionFailed: func() moved {
			x, code := s.returned(t, tenant, tenants.NewSession{})
			claim, err := s.ClaimCompletion(t.Context(), by, tenant, x.ID, code, "user")
			ok(t, err)
			return moved{end(claim.Session, tenants.SessionFailed, tenants.SessionCompleting).x, code}
		},
	}
	// What each method answers in each status; fault.Internal: it goes through.
	want := map[tenants.SessionStatus]struct{ start, back, claim, finish fault.Kind }{
		tenants.SessionCreated:    {fault.Internal, fault.NotFound, fault.Conflict, fault.RestartConnect},
		tenants.SessionStarted:    {fault.Internal, fault.Internal, fault.Conflict, fault.RestartConnect},
		tenants.SessionReturned:   {fault.NotFound, fault.NotFound, fault.Internal, fault.RestartConnect},
		tenants.SessionCompleting: {fault.NotFound, fault.NotFound, fault.CompletionInProgress, fault.Internal},
		tenants.SessionConnected:  {fault.NotFound, fault.NotFound, fault.Internal, fault.Internal},
		tenants.SessionDenied:     {fault.NotFound, fault.NotFound, fault.RestartConnect, fault.RestartConnect},
		tenants.SessionExpired:    {fault.NotFound, fault.NotFound, fault.Expired, fault.RestartConnect},
		tenants.SessionFailed:     {fault.NotFound, fault.NotFound, fault.RestartConnect, fault.RestartConnect},
	}
	for status, session := range reach {
		calls := map[string]struct {
			want fault.Kind
			call func(m moved) error
		}{
			"StartSession": {want[status].start, func(m moved) error {
				return s.StartSession(t.Context(), by, m.x, tenants.Start{State: "new", Browser: "browser", ClientID: clientID, RedirectURI: redirectURI})
			}},
			"ReturnSession": {want[status].back, func(m moved) error {
				_, err := s.ReturnSession(t.Context(), by, m.x, tenants.Return{State: "state", Code: "c", Verifier: "v"})
				return err
			}},
			"ClaimCompletion": {want[status].claim, func(m moved) error {
				_, err := s.ClaimCompletion(t.Context(), by, tenant, m.x.ID, m.code, "user")
				return err
			}},
			"FinishSession": {want[status].finish, func(m moved) error {
				_, err := s.FinishSession(t.Context(), by, m.x, clientID, s.pair(t, "again", "wksp_1"))
				return err
			}},
		}
		for name, tc := range calls {
			m := session()
			if got := s.status(t, m.x); got != status {
				t.Fatalf("a session that should be %s is %s", status, got)
			}
			before := s.rows(t, tenant)
			wantKind(t, name+" while "+string(status), tc.call(m), tc.want)
			if tc.want != fault.Internal {
				s.unchanged(t, name+" while "+string(status), tenant, before)
			}
		}
		m := session()
		for _, from := range []tenants.SessionStatus{"created", "started", "returned", "completing"} {
			if from == status {
				continue
			}
			ended, err := s.EndSession(t.Context(), by, m.x, tenants.Ending{Status: tenants.SessionFailed, Failure: "x"}, from)
			if err != nil || ended {
				t.Errorf("EndSession from %s while %s: ended = %t, %v", from, status, ended, err)
			}
		}
	}
}

// A session's time is over when it is over, whether or not a sweep has come by.
func TestStatusByTime(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	ctx, by := t.Context(), tenants.System()
	created, started := s.created(t, tenant, tenants.NewSession{}), s.started(t, tenant, tenants.NewSession{})
	short := s.started(t, tenant, tenants.NewSession{Life: time.Minute})
	returned, code := s.returned(t, tenant, tenants.NewSession{})
	other, otherCode := s.returned(t, tenant, tenants.NewSession{})
	completing, completingCode := s.returned(t, tenant, tenants.NewSession{})
	_, err := s.ClaimCompletion(ctx, by, tenant, completing.ID, completingCode, "user")
	ok(t, err)

	s.db.Advance(t, tenants.CompletionLife-10*time.Second)
	if got := s.status(t, returned); got != tenants.SessionReturned {
		t.Errorf("before its code is too old: %s", got)
	}
	_, err = s.ClaimCompletion(ctx, by, tenant, other.ID, otherCode, "user")
	ok(t, err)
	s.db.Advance(t, 11*time.Second)
	if got := s.status(t, returned); got != tenants.SessionExpired {
		t.Errorf("when its code is too old: %s", got)
	}
	for range 2 {
		_, err = s.ClaimCompletion(ctx, by, tenant, returned.ID, code, "user")
		wantKind(t, "a late completion", err, fault.Expired)
	}
	if got := s.events(t, tenant); !slices.Equal(got, []string{tenants.EventSessionExpired}) {
		t.Errorf("events after a late completion = %v", got)
	}
	_, err = s.ClaimCompletion(ctx, by, tenant, returned.ID, "another code", "user")
	wantKind(t, "a late completion with another code", err, fault.NotFound)
	if n := one[int](t, s, `SELECT count(*) FROM connect_sessions WHERE code_sealed IS NOT NULL`); n != 0 {
		t.Errorf("%d codes that can't be redeemed are kept", n)
	}

	s.db.Advance(t, 20*time.Second)
	if got := s.status(t, short); got != tenants.SessionExpired {
		t.Errorf("a session of a minute after a minute: %s", got)
	}
	if got, err := s.Session(ctx, tenant, created.ID); err != nil || !got.Open() {
		t.Errorf("a session of ten minutes after a minute is %s", got.Status)
	}
	_, err = s.ReturnSession(ctx, by, short, tenants.Return{State: "state", Code: "c", Verifier: "v"})
	wantKind(t, "a late return", err, fault.NotFound)
	wantKind(t, "a late click", s.StartSession(ctx, by, short, tenants.Start{State: "n", Browser: "browser", ClientID: "c", RedirectURI: "r"}),
		fault.NotFound)

	_, err = s.ClaimCompletion(ctx, by, tenant, completing.ID, completingCode, "user")
	wantKind(t, "while another completes", err, fault.CompletionInProgress)
	s.db.Advance(t, 3*time.Minute)
	_, err = s.ClaimCompletion(ctx, by, tenant, completing.ID, completingCode, "user")
	wantKind(t, "when that one must have died", err, fault.RestartConnect)

	s.db.Advance(t, 7*time.Minute)
	for _, x := range []tenants.Session{created, started} {
		got, err := s.Session(ctx, tenant, x.ID)
		ok(t, err)
		if got.Status != tenants.SessionExpired || got.Open() {
			t.Errorf("a session of ten minutes after ten minutes: %s", got.Status)
		}
		_, err = s.ClaimCompletion(ctx, by, tenant, x.ID, "code", "user")
		wantKind(t, "completing an expired session", err, fault.Expired)
	}
}

func fields(err error) []string {
	var pointers []string
	if e, isFault := err.(*fault.Error); isFault { //nolint:errorlint // the store returns it unwrapped
		for _, field := range e.Fields {
			pointers = append(pointers, field.Pointer)
		}
	}
	return pointers
}
