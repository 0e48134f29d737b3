package httpapi_test

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// marker stands in hostile input and must never come back.
const marker = "marker0of0the0input"

func TestAuthentication(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	ctx := t.Context()
	list := func(header http.Header, query string) apitest.Answer {
		return w.Call(t, "", http.MethodGet, "/v1/connections"+query, nil, header)
	}
	good := w.Tenant.Key
	auth := func(values ...string) http.Header { return http.Header{"Authorization": values} }

	_, expired, err := w.Store.CreateKey(ctx, tenants.System(), w.Tenant.ID, "old", tenants.AllScopes(), w.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	revoked := w.NewKey(t, w.Tenant.ID, tenants.AllScopes()...)
	keys, err := w.Store.Keys(ctx, w.Tenant.ID)
	if err != nil {
		t.Fatal(err)
	}
	if answer := list(auth("Bearer "+revoked), ""); answer.Status != http.StatusOK {
		t.Fatalf("a good key: %d", answer.Status)
	}
	if _, err := w.Store.RevokeKey(ctx, tenants.System(), w.Tenant.ID, keys[0].ID); err != nil {
		t.Fatal(err)
	}
	w.DB.Advance(t, 2*time.Hour)
	paused := w.NewTenant(t, "Paused", nil)
	w.Pause(t, paused, true)
	elsewhere := apitest.New(t) // another installation, with keys of its own

	refused := map[string]http.Header{
		"none": {"Authorization": nil}, "empty": auth(""), "scheme alone": auth("Bearer"), "empty key": auth("Bearer "),
		"Basic": auth("Basic dXNlcjpwYXNzd29yZA=="), "no scheme": auth(good), "another scheme": auth("Token " + good),
		"bad checksum": auth("Bearer " + changed(good)), "cut": auth("Bearer " + good[:40]), "longer": auth("Bearer " + good + "a"),
		"upper case": auth("Bearer " + strings.ToUpper(good)), "revoked": auth("Bearer " + revoked), "expired": auth("Bearer " + expired),
		"paused tenant": auth("Bearer " + paused.Key), "another installation": auth("Bearer " + elsewhere.Tenant.Key),
		"10 KB": auth("Bearer " + strings.Repeat("k", 10<<10)), "two keys in one": auth("Bearer " + good + ", Bearer " + good),
	}
	bodies := map[string]string{}
	for name, header := range refused {
		answer := list(header, "")
		apitest.WantProblem(t, answer, http.StatusUnauthorized, "unauthorized")
		if !strings.HasPrefix(answer.Header.Get("Www-Authenticate"), "Bearer ") {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
		bodies[name] = strings.ReplaceAll(string(answer.Body), answer.Header.Get("X-Request-Id"), "")
	}
	for _, name := range []string{"expired", "paused tenant", "another installation", "bad checksum"} {
		if bodies[name] != bodies["revoked"] {
			t.Errorf("%s can be told from revoked", name)
		}
	}
	invalid := map[string]apitest.Answer{
		"two headers":        list(auth("Bearer "+good, "Bearer "+good), ""),
		"in the query":       list(http.Header{"Authorization": nil}, "?api_key="+good),
		"in the query, both": list(auth("Bearer "+good), "?userId="+good),
	}
	for name, answer := range invalid {
		if answer.Status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, answer.Status)
		}
	}
	for _, fine := range []string{"Bearer " + good, "bearer " + good, "BEARER   " + good} {
		if answer := list(auth(fine), ""); answer.Status != http.StatusOK {
			t.Errorf("a good key: %d", answer.Status)
		}
	}
	t.Logf("%d kinds of credentials refused", len(refused)+len(invalid))
}

func TestJSONBodies(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	url := `"returnUrl":"` + apitest.ReturnURL + `"`
	deep := strings.Repeat(`{"`+marker+`":`, 10_000) + "1" + strings.Repeat("}", 10_000)
	tests := map[string]struct {
		body, pointer string // pointer: one that must be named; "-" for none
		status        int
	}{
		"empty":                {"", "-", 400},
		"white space":          {" \n", "-", 400},
		"not JSON":             {"userId=" + marker, "-", 400},
		"cut":                  {`{"userId":"` + marker, "-", 400},
		"null":                 {"null", "-", 400},
		"a string":             {`"` + marker + `"`, "-", 400},
		"an array":             {`[{"userId":"` + marker + `"}]`, "-", 400},
		"trailing bytes":       {`{"userId":"` + marker + `"} x`, "-", 400},
		"two objects":          {`{"userId":"` + marker + `"}{}`, "-", 400},
		"duplicate":            {`{"userId":"ada","userId":"` + marker + `",` + url + `}`, "/userId", 400},
		"duplicate, escaped":   {`{"userId":"ada","user\u0049d":"` + marker + `",` + url + `}`, "/userId", 400},
		"duplicate, folded":    {`{"userId":"ada","USERID":"` + marker + `",` + url + `}`, "-", 400},
		"folded":               {`{"USERID":"` + marker + `",` + url + `}`, "-", 400},
		"depth 10,000":         {deep, "-", 413},
		"depth 1,000":          {`{"a":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}", "-", 400},
		"unknown field":        {`{"userId":"ada",` + url + `,"userid":1}`, "/userid", 400},
		"missing":              {`{` + url + `}`, "/userId", 400},
		"null for required":    {`{"userId":null,` + url + `}`, "/userId", 400},
		"number for text":      {`{"userId":42,` + url + `}`, "/userId", 400},
		"boolean for text":     {`{"userId":true,` + url + `}`, "/userId", 400},
		"object for text":      {`{"userId":{"` + marker + `":1},` + url + `}`, "/userId", 400},
		"array for text":       {`{"userId":["` + marker + `"],` + url + `}`, "/userId", 400},
		"text for number":      {`{"userId":"ada",` + url + `,"expiresInSeconds":"600"}`, "/expiresInSeconds", 400},
		"fraction":             {`{"userId":"ada",` + url + `,"expiresInSeconds":60.5}`, "/expiresInSeconds", 400},
		"1e400":                {`{"userId":"ada",` + url + `,"expiresInSeconds":1e400}`, "/expiresInSeconds", 400},
		"2^63":                 {`{"userId":"ada",` + url + `,"expiresInSeconds":9223372036854775808}`, "/expiresInSeconds", 400},
		"2^63-1":               {`{"userId":"ada",` + url + `,"expiresInSeconds":9223372036854775807}`, "/expiresInSeconds", 422},
		"-2^63":                {`{"userId":"ada",` + url + `,"expiresInSeconds":-9223372036854775808}`, "/expiresInSeconds", 422},
		"leading zero":         {`{"userId":"ada",` + url + `,"expiresInSeconds":0600}`, "-", 400},
		"NaN":                  {`{"userId":"ada",` + url + `,"expiresInSeconds":NaN}`, "-", 400},
		"lone surrogate":       {`{"userId":"\ud800` + marker + `",` + url + `}`, "/userId", 400},
		"bad UTF-8":            {"{\"userId\":\"" + marker + "\xff\"," + url + "}", "-", 400},
		"overlong UTF-8":       {"{\"userId\":\"" + marker + "\xc0\xaf\"," + url + "}", "-", 400},
		"byte order mark":      {"\ufeff{\"userId\":\"ada\"," + url + "}", "-", 400},
		"UTF-16":               {"{\x00\"\x00u\x00\"\x00:\x001\x00}\x00", "-", 400},
		"NUL inside":           {"{\"userId\":\"" + marker + "\x00\"," + url + "}", "-", 400},
		"NUL escaped":          {`{"userId":"` + marker + `\u0000",` + url + `}`, "/userId", 422},
		"comment":              {`{/*` + marker + `*/"userId":"ada",` + url + `}`, "-", 400},
		"trailing comma":       {`{"userId":"ada",` + url + `,}`, "-", 400},
		"single quotes":        {`{'userId':'ada'}`, "-", 400},
		"64 KiB and one more":  {`{"userId":"` + strings.Repeat("u", 64<<10) + `"}`, "-", 413},
		"1 MiB":                {strings.Repeat(marker, 1<<16), "-", 413},
		"a long number":        {`{"userId":"ada",` + url + `,"expiresInSeconds":` + strings.Repeat("9", 41) + `}`, "/expiresInSeconds", 400},
		"a long exponent":      {`{"userId":"ada",` + url + `,"expiresInSeconds":1e` + strings.Repeat("9", 60<<10) + `}`, "/expiresInSeconds", 400},
		"128 values":           {`{"userId":[` + strings.Repeat("1,", 125) + `1]}`, "/userId", 400},
		"10,000 values":        {`{"userId":[` + strings.Repeat("1,", 10_000) + `1]}`, "", 400},
		"50,000 names":         {"{" + strings.Repeat(`"a":1,`, 10_000) + `"b":1}`, "-", 400},
		"unknown, odd name":    {`{"userId":"ada",` + url + `,"<b>` + marker + `</b>":1}`, "-", 400},
		"unknown, long name":   {`{"userId":"ada",` + url + `,"` + strings.Repeat(marker, 9) + `":1}`, "-", 400},
		"prototype":            {`{"userId":"ada",` + url + `,"__proto__":{"x":1}}`, "-", 400},
		"user id of 256":       {`{"userId":"` + strings.Repeat("u", 256) + `",` + url + `}`, "/userId", 422},
		"a right-to-left mark": {`{"userId":"ada",` + url + `,"userLabel":"` + marker + "\u202e" + `"}`, "/userLabel", 422},
	}
	for name, tc := range tests {
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", tc.body)
		var p apitest.Problem
		answer.JSON(t, &p)
		if answer.Status != tc.status || tc.pointer != "-" && !p.Names(tc.pointer) {
			t.Errorf("%s: %d, errors %v; want %d and %s", name, answer.Status, p.Errors, tc.status, tc.pointer)
		}
		if bytes.Contains(answer.Body, []byte(marker)) {
			t.Errorf("%s: the input is in the answer", name)
		}
	}
	good := `{"userId":"ada",` + url + `}`
	types := []string{"", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/json, text/plain", "application/jsonx", "multipart/form-data; boundary=x", ";", "application/json; charset"}
	for _, kind := range types {
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", good, http.Header{"Content-Type": {kind}})
		apitest.WantProblem(t, answer, http.StatusUnsupportedMediaType, "invalid-request")
	}
	for _, coding := range []string{"gzip", "br", "identity"} {
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", good, http.Header{"Content-Encoding": {coding}})
		apitest.WantProblem(t, answer, http.StatusUnsupportedMediaType, "invalid-request")
	}
	if n := apitest.Query[int](t, w, "SELECT count(*)::int FROM connect_sessions"); n != 0 {
		t.Errorf("%d sessions were made", n)
	}
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON"} {
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", good, http.Header{"Content-Type": {kind}})
		if answer.Status != http.StatusCreated {
			t.Errorf("%s: %d", kind, answer.Status)
		}
	}
	t.Logf("%d bodies and %d types refused", len(tests), len(types))
}

func TestCreateSessionValues(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tests := map[string]struct {
		field string
		value any
	}{
		"label of 10 KB":         {"userLabel", strings.Repeat("x", 10<<10)},
		"label with a new line":  {"userLabel", "Ada\n" + marker},
		"label with an escape":   {"userLabel", "Ada\x1b[31m" + marker},
		"label, bidi override":   {"userLabel", "Ada \u202e" + marker},
		"label, bidi isolate":    {"userLabel", "Ada \u2066" + marker},
		"label, replacement":     {"userLabel", "Ada \ufffd"},
		"label, line separator":  {"userLabel", "Ada\u2028" + marker},
		"label, spaces around":   {"userLabel", " " + marker},
		"label, empty":           {"userLabel", ""},
		"label, private use":     {"userLabel", "Ada \ue000"},
		"user, empty":            {"userId", ""},
		"user, 256 characters":   {"userId", strings.Repeat("ü", 256)},
		"user, NUL":              {"userId", "ada\x00" + marker},
		"life of 0":              {"expiresInSeconds", 0},
		"life of 59 s":           {"expiresInSeconds", 59},
		"life of 601 s":          {"expiresInSeconds", 601},
		"life of a year":         {"expiresInSeconds", 31_536_000},
		"life below 0":           {"expiresInSeconds", -600},
		"completion, unknown":    {"completion", marker},
		"completion, other case": {"completion", "Automatic"},
		"completion, empty":      {"completion", ""},
		"restart URL, empty":     {"restartUrl", ""},
		"return URL, none":       {"returnUrl", nil},
		"return URL, empty":      {"returnUrl", ""},
	}
	for name, tc := range tests {
		body := map[string]any{"userId": "ada", "returnUrl": apitest.ReturnURL, tc.field: tc.value}
		answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", body)
		var p apitest.Problem
		answer.JSON(t, &p)
		refused := answer.Status == http.StatusUnprocessableEntity || strings.HasPrefix(name, "label, replacement") && answer.Status == http.StatusBadRequest
		if !refused || !p.Names("/"+tc.field) {
			t.Errorf("%s: %d, errors %v", name, answer.Status, p.Errors)
		}
		if bytes.Contains(answer.Body, []byte(marker)) {
			t.Errorf("%s: the input is in the answer", name)
		}
	}
	for _, user := range []string{"a", strings.Repeat("ü", 255), "ada@example.com", "O'Brien; DROP TABLE users", "<b>ada</b>", "用户", "🦀", "../../etc"} {
		session := w.CreateSession(t, w.Tenant, user, nil)
		if got := w.GetSession(t, w.Tenant, session.ID).UserID; got != user {
			t.Errorf("user %q came back as %q", user, got)
		}
		page := w.NewBrowser().Do(t, http.MethodGet, session.URL, nil)
		if !strings.Contains(page.Text(t), user) || bytes.Contains(page.Body, []byte("<b>ada")) {
			t.Errorf("the page does not show user %q as text", user)
		}
	}
	t.Logf("%d values refused", len(tests))
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	path := "/v1/connections/" + connection.ID + "/projects"
	shop := map[string]string{"name": "shop", "region": "us-east-1"}
	create := func(body any, keys ...string) apitest.Answer {
		return w.Call(t, w.Tenant.Key, http.MethodPost, path, body, http.Header{"Idempotency-Key": keys})
	}
	for name, keys := range map[string][]string{
		"256 bytes": {strings.Repeat("k", 256)}, "control": {"a\tb"}, "not ASCII": {"schlüssel"}, "empty": {""},
		"two headers": {"one", "two"}, "the same twice": {"one", "one"}, "empty quotes": {`""`},
	} {
		answer := create(shop, keys...)
		if p := apitest.WantProblem(t, answer, http.StatusBadRequest, "invalid-request"); !p.Names("Idempotency-Key") {
			t.Errorf("%s: the header is not named", name)
		}
	}
	longest := strings.Repeat("k", 255)
	first := create(shop, longest)
	again := create(shop, `"`+longest+`"`)
	if first.Status != http.StatusCreated || !sameBut(t, first, again) || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same request again: %d, %d %s", first.Status, again.Status, again.Body)
	}
	apitest.WantProblem(t, create(map[string]string{"name": "other", "region": "us-east-1"}, longest),
		http.StatusUnprocessableEntity, "idempotency-conflict")
	list := apitest.Data[[]struct{ ID string }](t, w.Call(t, w.Tenant.Key, http.MethodGet, path, nil))
	if len(list) != 1 {
		t.Errorf("%d projects", len(list))
	}
	for i, odd := range []string{`a,b=c;d`, `50%41`, `50A`, `"`, `two words`, `a"b`} { // each is itself and no other
		answer := create(shop, odd)
		if answer.Status != http.StatusCreated || answer.Header.Get("Idempotent-Replayed") != "" {
			t.Errorf("the key %s: %d, replayed %q", odd, answer.Status, answer.Header.Get("Idempotent-Replayed"))
		}
		list = apitest.Data[[]struct{ ID string }](t, w.Call(t, w.Tenant.Key, http.MethodGet, path, nil))
		if len(list) != i+2 {
			t.Errorf("%d projects after the key %s", len(list), odd)
		}
	}
	before := len(list)
	var answers [20]apitest.Answer
	apitest.AtOnce(len(answers), func(i int) { answers[i] = create(map[string]string{"name": "many", "region": "us-east-1"}, "many") })
	statuses := map[int]int{}
	for _, answer := range answers {
		statuses[answer.Status]++
		if answer.Status == http.StatusConflict {
			apitest.WantProblem(t, answer, http.StatusConflict, "operation-in-progress")
			if answer.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
	}
	list = apitest.Data[[]struct{ ID string }](t, w.Call(t, w.Tenant.Key, http.MethodGet, path, nil))
	t.Logf("%d parallel requests with one key: %v, %d projects made", len(answers), statuses, len(list)-before)
	if len(list) != before+1 || statuses[http.StatusCreated] < 1 || !slices.Contains([]int{len(answers)}, statuses[http.StatusCreated]+statuses[http.StatusConflict]) {
		t.Errorf("statuses %v", statuses)
	}
}
