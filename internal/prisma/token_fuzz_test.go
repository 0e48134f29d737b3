package prisma_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/connect-prisma/server/internal/prisma"
)

// The parsers are not exported: bodies go through whole requests, over connections in
// memory.

// FuzzTokenResponse: whatever a token endpoint answers, a grant is safe to store and to
// send, nothing of the answer gets into an error, and only a refusal by name counts as
// one.
func FuzzTokenResponse(f *testing.F) {
	for _, seed := range tokenAnswers() {
		status := seed.status
		if status == 0 {
			status = http.StatusOK
		}
		f.Add(status, seed.body)
	}
	for _, body := range []string{
		"<html><body>200 OK</body></html>", `{"access_token":"a","expires_in":"3600"}`, `{"access_token":"a","expires_in":1e18}`,
		`{"access_token":"a","expires_in":1e999}`, `{"access_token":"a","expires_in":"NaN"}`, `{"access_token":"a","expires_in":-0.0}`,
		`{"access_token":"a","expires_in":"Inf"}`, `{"access_token":"a","expires_in":"0x1p-2"}`, `{"access_token":"a","expires_in":null}`,
		`{"access_token":"a\u0000b"}`, `{"access_token":"\ud800"}`, `{"access_token":" "}`, `{"access_token":"a","refresh_token":" r "}`,
		`{"access_token":"a","refresh_token":""}`, `{"access\u005ftoken":"a","access_token":"b"}`, `{"access_token":{"access_token":"a"}}`,
		"\xef\xbb\xbf{}", `{"access_token":"` + strings.Repeat("a", 16<<10) + `"}`, strings.Repeat("[", 20_000), `{"access_token":"a"} `,
	} {
		f.Add(http.StatusOK, body)
	}
	f.Add(http.StatusBadRequest, `{"error":"invalid_grant","error":"invalid_client"}`)
	f.Add(http.StatusCreated, `{"access_token":"opaque","refresh_token":"r2"}`)
	f.Add(http.StatusBadRequest, `{"Error":"invalid_grant"}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 999 || status == http.StatusNoContent || status == http.StatusNotModified {
			return // without a body, or no final status
		}
		oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "http://127.0.0.1:1", DialContext: piped(func(*http.Request, url.Values) string {
			return response(status, "application/json", body)
		})})
		grant, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c", Secret: "the-client-secret"}, "the-old-token")
		code, codeErr := oauth.ExchangeCode(t.Context(), prisma.OAuthClient{ID: "c"}, "https://a.example", "the-code", "the-verifier")
		checkAnswerError(t, err, status, body)
		checkAnswerError(t, codeErr, status, body)
		if err == nil {
			checkGrant(t, grant)
			if grant.Access == "" && (!grant.Rotated || !strings.Contains(body, `"refresh_token"`) && !strings.Contains(body, `\u`)) {
				t.Error("neither token is new")
			}
			if !grant.Rotated && grant.Refresh != "the-old-token" {
				t.Error("the old token was not kept")
			}
		}
		if codeErr == nil {
			checkGrant(t, code)
			if code.Access == "" {
				t.Error("a code gave no access token")
			}
			if err != nil || code.WorkspaceID == "" {
				t.Errorf("a code gave %v where a refresh gave %v", code, err)
			}
		}
	})
}

// FuzzCutAnswer: wherever an answer breaks off, what is taken of it is what the whole
// answer says; never a part of a token or of a number.
func FuzzCutAnswer(f *testing.F) {
	for order := range uint8(6) {
		f.Add("access", "refresh", 3600, order, 60)
		f.Add(`a"\\b`, "r\t", 90, order, 33)
	}
	f.Fuzz(func(t *testing.T, access, refresh string, life int, order uint8, cut int) {
		member := func(name string, value any) string {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%q:%s", name, text)
		}
		a, r, l := member("access_token", access), member("refresh_token", refresh), member("expires_in", life)
		orders := [][3]string{{a, r, l}, {a, l, r}, {r, a, l}, {r, l, a}, {l, a, r}, {l, r, a}}
		ordered := orders[int(order)%len(orders)]
		body := "{" + strings.Join(ordered[:], ",") + "}"
		if cut < 0 || cut >= len(body) || len(body) > 64<<10 {
			return
		}
		ask := func(body string) (prisma.Grant, error) {
			oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "http://127.0.0.1:1", DialContext: piped(func(*http.Request, url.Values) string {
				return response(http.StatusOK, "application/json", body)
			})})
			return oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "the-old-token")
		}
		part, err := ask(body[:cut])
		if err != nil {
			return // what came says nothing
		}
		whole, err := ask(body)
		if err != nil || part.Refresh != whole.Refresh || part.Access != "" && part.Access != whole.Access ||
			part.ExpiresIn != whole.ExpiresIn && part.ExpiresIn != time.Hour || !part.Rotated {
			t.Errorf("%s gives %+v, the whole answer %+v, %v", body[:cut], part, whole, err)
		}
	})
}

// checkGrant wants tokens that can't break a header or a form, and a life that can't be
// an accident.
func checkGrant(t *testing.T, grant prisma.Grant) {
	t.Helper()
	if grant.Access == "" && grant.Refresh == "" || unprintable(grant.Access, '!') || unprintable(grant.Refresh, ' ') {
		t.Error("a token is not safe to send")
	}
	if grant.ExpiresIn < time.Minute || grant.ExpiresIn > 24*time.Hour {
		t.Errorf("life = %s", grant.ExpiresIn)
	}
	if want, err := prisma.WorkspaceIDOf(grant.Access); grant.WorkspaceID != want || (err == nil) != (want != "") {
		t.Errorf("workspace %q, the access token says %q", grant.WorkspaceID, want)
	}
	shown := grant.String() + fmt.Sprintf("%v %+v %#v", grant, grant, grant) + grant.LogValue().String()
	if len(grant.Access) > 30 && strings.Contains(shown, grant.Access) {
		t.Error("a printed grant shows its token")
	}
}

func unprintable(token string, lowest rune) bool {
	return len(token) > 16<<10 || strings.ContainsFunc(token, func(r rune) bool { return r < lowest || r > '~' })
}

// checkAnswerError wants a *TokenError that blames the token only where the answer, read
// by another reader, says invalid_grant, and whose text has nothing of the answer but a
// harmless error code.
func checkAnswerError(t *testing.T, err error, status int, body string) {
	t.Helper()
	if err == nil {
		if status > 299 {
			t.Errorf("status %d gave a grant", status)
		}
		return
	}
	failure, ok := errors.AsType[*prisma.TokenError](err)
	if !ok {
		t.Fatalf("the error is %T", err)
	}
	if failure.Class == prisma.InvalidGrant {
		var answer map[string]any
		if json.Unmarshal([]byte(body), &answer) != nil || answer["error"] != "invalid_grant" || status != 400 && status != 401 {
			t.Errorf("status %d is taken for invalid_grant", status)
		}
	}
	if failure.Class == prisma.NotSent || failure.Class == 0 || status < 300 && failure.Class != prisma.Unknown {
		t.Errorf("status %d: class %s", status, failure.Class)
	}
	said := fmt.Sprintf("prisma: token request: %s: status %d", failure.Class, status)
	if failure.Code != "" {
		said += ": " + failure.Code
	}
	switch rest, ours := strings.CutPrefix(err.Error(), said); rest {
	case "", ": the answer is larger than 64 KiB", ": the answer is not a usable token response",
		": the access token names no workspace":
		if !ours {
			t.Errorf("the error says %q", err)
		}
	default:
		t.Errorf("the error says %q", err)
	}
	if len(failure.Code) > 64 || strings.ContainsFunc(failure.Code, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`<>"'&\`, r) }) {
		t.Errorf("the error's code is %q", failure.Code)
	}
}

// FuzzWorkspaceIDOf: an id is safe in a URL and a log, and is what a plain reader of the
// token finds; the error repeats nothing.
func FuzzWorkspaceIDOf(f *testing.F) {
	for _, token := range []string{
		accessToken(), "", "a.b.c", "..", ".e30.", jwt("{}"), jwt(`{"workspace_id":null}`), jwt(`{"workspace_id":1e400}`), jwt(`[]`),
		jwt(`{"workspace_id":"a","workspace_id":"b"}`), jwt(`{"workspace_id":"a","workspace\u005fid":"b"}`), jwt(`{"workspace_id":"../me"}`),
		jwt(`{"workspace_id":"a\r\nX: y"}`), jwt(`{"workspace_id":"\ud800"}`), jwt(`{"Workspace_ID":"a"}`), jwt(`{"workspace_id":"a"}{}`),
		jwt(`{"workspace_id":"` + strings.Repeat("w", 129) + `"}`), accessToken() + "=", accessToken() + ".x", "é." + jwt(`{}`),
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := prisma.WorkspaceIDOf(token)
		if err != nil {
			if id != "" || err.Error() != "prisma: the access token names no workspace that can be read" {
				t.Errorf("WorkspaceIDOf(%q) = %q, %v", token, id, err)
			}
			return
		}
		if id == "" || len(id) > 128 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			t.Errorf("WorkspaceIDOf(%q) = %q, which is not a safe id", token, id)
		}
		parts := strings.Split(token, ".")
		var claims map[string]any
		payload, decodeErr := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
		if len(parts) != 3 || decodeErr != nil || json.Unmarshal(payload, &claims) != nil || claims["workspace_id"] != id {
			t.Errorf("WorkspaceIDOf(%q) = %q, and a plain reader finds %v", token, id, claims["workspace_id"])
		}
	})
}

// FuzzMetadata: whatever document is served, endpoints that are taken over are on the
// issuer's origin and PKCE stays on; otherwise nothing changes, and the error is one of
// our own sentences.
func FuzzMetadata(f *testing.F) {
	const issuer = "http://127.0.0.1:1"
	for _, body := range badMetadata() {
		f.Add(strings.ReplaceAll(body, httpsIssuer, issuer))
	}
	f.Add(metadataOf(issuer, nil))
	f.Add(metadataOf(issuer, map[string]any{"authorization_endpoint": issuer + "?client_id=x&code_challenge_method=plain"}))
	f.Add(metadataOf(issuer, map[string]any{"authorization_endpoint": issuer + "/?a;b=c&&=&d"}))
	f.Fuzz(func(t *testing.T, body string) {
		oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(*http.Request, url.Values) string {
			return response(http.StatusOK, "application/json", body)
		})})
		before, _ := oauth.Metadata()
		found, err := oauth.Discover(t.Context())
		now, known := oauth.Metadata()
		if err != nil {
			refused, ok := errors.AsType[*prisma.MetadataError](err)
			if !ok || known || now != before {
				t.Fatalf("Discover() error = %v, in use: %t", err, known)
			}
			if text := refused.Error(); len(text) > 200 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) ||
				len(body) > 12 && strings.Contains(text, body) {
				t.Errorf("the error says %q", text)
			}
			return
		}
		if !known || now != found || found.Issuer != issuer {
			t.Errorf("found %+v, in use %+v", found, now)
		}
		for _, endpoint := range []string{found.AuthorizationEndpoint, found.TokenEndpoint} {
			u, err := url.Parse(endpoint)
			if err != nil || u.Scheme != "http" || u.Host != "127.0.0.1:1" || u.User != nil || strings.Contains(endpoint, "#") {
				t.Errorf("the endpoint %q is in use", endpoint)
			}
		}
		checkDocument(t, body)
		checkAuthorizationURL(t, oauth)
	})
}

// checkDocument looks with a plain reader for what every accepted document has.
func checkDocument(t *testing.T, body string) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil || !utf8.ValidString(body) {
		t.Fatalf("accepted, and no JSON object: %v", err)
	}
	methods, _ := doc["code_challenge_methods_supported"].([]any)
	s256 := false
	for _, method := range methods {
		s256 = s256 || method == "S256"
	}
	if !s256 || doc["issuer"] != "http://127.0.0.1:1" {
		t.Errorf("accepted: issuer %q, PKCE %v", doc["issuer"], methods)
	}
}

// checkAuthorizationURL wants our own parameters once each, whatever query the endpoint
// came with.
func checkAuthorizationURL(t *testing.T, oauth *prisma.OAuth) {
	t.Helper()
	raw, err := oauth.AuthorizationURL(prisma.AuthorizationRequest{ClientID: "c", RedirectURI: "https://a.example", State: "s", Verifier: "v"})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host != "127.0.0.1:1" {
		t.Fatalf("users would go to %q", raw)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatalf("the query of %q: %v", raw, err)
	}
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "c", "redirect_uri": "https://a.example", "state": "s",
		"code_challenge": prisma.Challenge("v"), "code_challenge_method": "S256", "scope": prisma.DefaultScope,
	} {
		if got := query[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s = %q, want %q once", name, got, want)
		}
	}
}

// FuzzCheckIssuer: a callback's query passes only with the issuer once, or with none
// where none was promised.
func FuzzCheckIssuer(f *testing.F) {
	const issuer = "http://127.0.0.1:1"
	right := "iss=" + url.QueryEscape(issuer)
	for _, query := range []string{
		"", "code=c&state=s", right, right + "&" + right, "iss=", "iss", "ISS=" + issuer, right + "%00", right + "/", "iss[]=" + issuer,
		"iss=https%3A%2F%2Fevil.example", "%69ss=" + issuer, right + ";iss=x", "iss=%zz", right + "&iss=https://evil.example", "+" + right,
		"code=" + strings.Repeat("c", 10<<10) + "&" + right, "error=access_denied&error_description=%3Cscript%3E&" + right,
	} {
		f.Add(query, true)
		f.Add(query, false)
	}
	oauths := map[bool]*prisma.OAuth{}
	for _, promised := range []bool{true, false} {
		oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(*http.Request, url.Values) string {
			return response(http.StatusOK, "application/json",
				metadataOf(issuer, map[string]any{"authorization_response_iss_parameter_supported": promised}))
		})})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := oauth.Discover(f.Context()); err != nil {
			f.Fatal(err)
		}
		oauths[promised] = oauth
	}
	f.Fuzz(func(t *testing.T, raw string, promised bool) {
		query, _ := url.ParseQuery(raw) // what of it can be read, as (*url.URL).Query
		// Counted by hand, from the text.
		found, right := 0, true
		for pair := range strings.SplitSeq(raw, "&") {
			name, value, _ := strings.Cut(pair, "=")
			name, nameErr := url.QueryUnescape(name)
			value, valueErr := url.QueryUnescape(value)
			if strings.Contains(pair, ";") || nameErr != nil || valueErr != nil || name != "iss" {
				continue
			}
			found++
			right = right && value == issuer
		}
		want := found == 1 && right || found == 0 && !promised
		err := oauths[promised].CheckIssuer(query)
		if (err == nil) != want {
			t.Errorf("CheckIssuer(%q), promised %t = %v, want success: %t", raw, promised, err, want)
		}
		if err != nil && len(raw) > 8 && strings.Contains(err.Error(), raw) {
			t.Error("the error repeats the query")
		}
	})
}
