package prismasim_test

import (
	"bytes"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// The pair of RFC 7636, appendix B.
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

// authorization is a right request of the partner's client, with changes.
func authorization(changes map[string]string) url.Values {
	query := url.Values{
		"response_type": {"code"}, "client_id": {prismasimtest.ClientID}, "redirect_uri": {prismasimtest.RedirectURI},
		"scope": {"workspace:admin offline_access"}, "state": {"st&te"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for name, value := range changes {
		if value == "" {
			query.Del(name)
			continue
		}
		query.Set(name, value)
	}
	return query
}

func TestAuthorizeChecksBeforeItRedirects(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	public := map[string]string{"client_id": prismasimtest.PublicClientID}
	tests := map[string]struct {
		changes map[string]string
		status  int
		fault   string // error told to the client by redirect
	}{
		"right":                              {status: http.StatusOK},
		"other loopback port":                {changes: map[string]string{"redirect_uri": "http://localhost:9999/oauth/callback"}, status: http.StatusOK},
		"other registered":                   {changes: map[string]string{"redirect_uri": "https://partner.example/cb?fixed=1"}, status: http.StatusOK},
		"confidential without PKCE":          {changes: map[string]string{"code_challenge": "", "code_challenge_method": ""}, status: http.StatusOK},
		"without offline_access":             {changes: map[string]string{"scope": "workspace:admin"}, status: http.StatusOK},
		"unknown client":                     {changes: map[string]string{"client_id": "nobody"}, status: http.StatusBadRequest},
		"no client":                          {changes: map[string]string{"client_id": ""}, status: http.StatusBadRequest},
		"no redirect URI":                    {changes: map[string]string{"redirect_uri": ""}, status: http.StatusBadRequest},
		"other loopback host":                {changes: map[string]string{"redirect_uri": "http://127.0.0.1:8080/oauth/callback"}, status: http.StatusBadRequest},
		"other path":                         {changes: map[string]string{"redirect_uri": "http://localhost:8080/oauth/callback/"}, status: http.StatusBadRequest},
		"other query":                        {changes: map[string]string{"redirect_uri": "http://localhost:8080/oauth/callback?a=1"}, status: http.StatusBadRequest},
		"other scheme":                       {changes: map[string]string{"redirect_uri": "https://localhost:8080/oauth/callback"}, status: http.StatusBadRequest},
		"user in redirect URI":               {changes: map[string]string{"redirect_uri": "http://localhost:8080@evil.example/oauth/callback"}, status: http.StatusBadRequest},
		"fragment in redirect URI":           {changes: map[string]string{"redirect_uri": "http://localhost:8080/oauth/callback#x"}, status: http.StatusBadRequest},
		"suffix host":                        {changes: map[string]string{"redirect_uri": "http://localhost.evil.example/oauth/callback"}, status: http.StatusBadRequest},
		"other port off loopback":            {changes: map[string]string{"redirect_uri": "https://partner.example:8443/cb?fixed=1"}, status: http.StatusBadRequest},
		"wrong response type":                {changes: map[string]string{"response_type": "token"}, status: http.StatusSeeOther, fault: "unsupported_response_type"},
		"no response type":                   {changes: map[string]string{"response_type": ""}, status: http.StatusSeeOther, fault: "unsupported_response_type"},
		"unknown scope":                      {changes: map[string]string{"scope": "workspace:admin all"}, status: http.StatusSeeOther, fault: "invalid_scope"},
		"no scope":                           {changes: map[string]string{"scope": ""}, status: http.StatusSeeOther, fault: "invalid_scope"},
		"offline alone":                      {changes: map[string]string{"scope": "offline_access"}, status: http.StatusSeeOther, fault: "invalid_scope"},
		"plain PKCE":                         {changes: map[string]string{"code_challenge_method": "plain"}, status: http.StatusSeeOther, fault: "invalid_request"},
		"no PKCE method, which means plain":  {changes: map[string]string{"code_challenge_method": ""}, status: http.StatusSeeOther, fault: "invalid_request"},
		"no challenge":                       {changes: map[string]string{"code_challenge": ""}, status: http.StatusSeeOther, fault: "invalid_request"},
		"short challenge":                    {changes: map[string]string{"code_challenge": "short"}, status: http.StatusSeeOther, fault: "invalid_request"},
		"public, any loopback":               {changes: with(public, "redirect_uri", "http://127.0.0.1:1/any/path?q=1"), status: http.StatusOK},
		"public, IPv6 loopback":              {changes: with(public, "redirect_uri", "http://[::1]:4/x"), status: http.StatusOK},
		"public, not loopback":               {changes: with(public, "redirect_uri", "https://partner.example/cb"), status: http.StatusBadRequest},
		"public, backslash in redirect URI":  {changes: with(public, "redirect_uri", `http://localhost\@evil.example/`), status: http.StatusBadRequest},
		"public, javascript in redirect URI": {changes: with(public, "redirect_uri", "javascript:alert(1)//localhost"), status: http.StatusBadRequest},
		"public without PKCE":                {changes: with(with(public, "code_challenge", ""), "code_challenge_method", ""), status: http.StatusSeeOther, fault: "invalid_request"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := send(t, http.MethodGet, sim.URL+"/authorize?"+authorization(tc.changes).Encode(), "", nil)
			if response.StatusCode != tc.status {
				t.Fatalf("status = %d, want %d", response.StatusCode, tc.status)
			}
			location := response.Header.Get("Location")
			if tc.fault == "" {
				if location != "" {
					t.Errorf("it redirected")
				}
				return
			}
			back, err := url.Parse(location)
			if err != nil || !strings.HasPrefix(location, prismasimtest.RedirectURI+"?") {
				t.Fatalf("redirected to %q", location)
			}
			query := back.Query()
			if query.Get("error") != tc.fault || query.Get("state") != "st&te" || query.Get("iss") != sim.URL || query.Has("code") {
				t.Errorf("redirect query = %v", query)
			}
		})
	}
}

func with(values map[string]string, name, value string) map[string]string {
	changed := maps.Clone(values)
	changed[name] = value
	return changed
}

func TestAuthorizeRefusesRepeatedParameters(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	for name, status := range map[string]int{
		"client_id": http.StatusBadRequest, "redirect_uri": http.StatusBadRequest,
		"state": http.StatusSeeOther, "scope": http.StatusSeeOther, "code_challenge": http.StatusSeeOther,
	} {
		query := authorization(nil)
		query.Add(name, query.Get(name))
		response := send(t, http.MethodGet, sim.URL+"/authorize?"+query.Encode(), "", nil)
		if response.StatusCode != status {
			t.Errorf("%s twice = %d, want %d", name, response.StatusCode, status)
		}
	}
}

func TestConsentPage(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	response := send(t, http.MethodGet, sim.URL+"/authorize?"+authorization(nil).Encode(), "", nil)
	policy := response.Header.Get("Content-Security-Policy")
	for _, part := range []string{
		"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' http://localhost:8080", "http://localhost:*",
	} {
		if !strings.Contains(policy, part) {
			t.Errorf("policy lacks %q: %s", part, policy)
		}
	}
	if response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the page may be cached")
	}
	page, err := goquery.NewDocumentFromReader(bytes.NewReader(response.Body))
	if err != nil {
		t.Fatal(err)
	}
	if heading := page.Find("h1").Text(); !strings.Contains(heading, "Partner App") {
		t.Errorf("heading = %q", heading)
	}
	for _, selector := range []string{
		"button[name=decision][value=approve]", "button[name=decision][value=deny]",
		"input[name=workspace][value=" + prismasimtest.WorkspaceA + "]", "input[name=workspace][value=" + prismasimtest.WorkspaceB + "]",
		"form[method=post][action='/authorize']", "fieldset legend", "html[lang]", "meta[name=viewport]",
	} {
		if page.Find(selector).Length() != 1 && selector != "fieldset legend" {
			t.Errorf("the page has %d of %s", page.Find(selector).Length(), selector)
		}
	}
	if scripts := page.Find("script, [style], [onclick]").Length(); scripts != 0 {
		t.Errorf("the page has %d scripts or inline styles", scripts)
	}
}

func TestConsentFormAnswers(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tests := map[string]struct {
		changes map[string]string
		status  int
		want    string // parameter of the redirect
	}{
		"approve":                       {map[string]string{"decision": "approve", "workspace": prismasimtest.WorkspaceB}, http.StatusSeeOther, "code"},
		"deny":                          {map[string]string{"decision": "deny"}, http.StatusSeeOther, "error"},
		"approve nothing":               {map[string]string{"decision": "approve"}, http.StatusUnprocessableEntity, ""},
		"unknown workspace":             {map[string]string{"decision": "approve", "workspace": "wksp_none"}, http.StatusUnprocessableEntity, ""},
		"no decision":                   {map[string]string{"workspace": prismasimtest.WorkspaceA}, http.StatusUnprocessableEntity, ""},
		"redirect URI changed in form":  {map[string]string{"decision": "approve", "workspace": prismasimtest.WorkspaceA, "redirect_uri": "https://evil.example/"}, http.StatusBadRequest, ""},
		"PKCE method changed in a form": {map[string]string{"decision": "approve", "workspace": prismasimtest.WorkspaceA, "code_challenge_method": "plain"}, http.StatusSeeOther, "error"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := send(t, http.MethodPost, sim.URL+"/authorize", authorization(tc.changes).Encode(), form())
			if response.StatusCode != tc.status {
				t.Fatalf("status = %d, want %d", response.StatusCode, tc.status)
			}
			if tc.want == "" {
				return
			}
			back, err := response.Location()
			if err != nil {
				t.Fatal(err)
			}
			if !back.Query().Has(tc.want) || back.Query().Get("state") != "st&te" || back.Query().Get("iss") != sim.URL {
				t.Errorf("redirect query has keys %v", back.Query())
			}
		})
	}
}

func TestRedirectKeepsAQueryOfTheClient(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	sim.Control(t, http.MethodPut, "consent", map[string]string{"mode": "deny"}, nil)
	query := authorization(map[string]string{"redirect_uri": "https://partner.example/cb?fixed=1"})
	response := send(t, http.MethodGet, sim.URL+"/authorize?"+query.Encode(), "", nil)
	if location := response.Header.Get("Location"); !strings.HasPrefix(location, "https://partner.example/cb?fixed=1&error=access_denied") {
		t.Errorf("Location = %s", location)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	body := api(t, sim, http.MethodGet, "/.well-known/oauth-authorization-server", "", nil, http.StatusOK)
	for name, want := range map[string]string{
		"issuer": sim.URL, "authorization_endpoint": sim.URL + "/authorize", "token_endpoint": sim.URL + "/token",
	} {
		if got := text(t, body, name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if methods := dig(t, body, "code_challenge_methods_supported"); len(methods.([]any)) != 1 || methods.([]any)[0] != "S256" {
		t.Errorf("code_challenge_methods_supported = %v", methods)
	}
	if dig(t, body, "authorization_response_iss_parameter_supported") != true {
		t.Error("iss is not advertised")
	}
}
