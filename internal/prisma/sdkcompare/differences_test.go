package sdkcompare_test

import (
	"fmt"
	"strings"
)

// difference is a line that the two transcripts of a scenario don't share: what it is
// with the published SDK, and with ours. Either may be missing.
type difference struct{ id, theirs, ours string }

// Lines that many scenarios have.
const (
	workspacesA = `list workspaces: ok {"data":[{"createdAt":"<time>","id":"wksp_ada_one","name":"Ada's first","type":"workspace",` +
		`"url":"http://prisma/v1/workspaces/wksp_ada_one"}],"pagination":{"hasMore":false,"nextCursor":null}}`
	workspacesPartner = `list workspaces: ok {"data":[{"createdAt":"<time>","id":"wksp_partner","name":"Partner Inc.","type":"workspace",` +
		`"url":"http://prisma/v1/workspaces/wksp_partner"}],"pagination":{"hasMore":false,"nextCursor":null}}`
	unauthorized = `list workspaces: APIError 401 authentication-failed: "The token is missing, expired or not valid."`

	replayedTheirs = `list workspaces: AuthError (refresh token invalid): "invalid_grant: the refresh token was used before: its authorization is revoked"`
	deadOurs       = `list workspaces: AuthError (refresh token invalid): "Prisma no longer accepts the refresh token. Please log in again."`
	nobodyTheirs   = `list workspaces: AuthError: "No tokens available. Please log in first."`
	nobodyOurs     = `list workspaces: AuthError: "No tokens stored. Please log in first."`
	probe          = "POST /token [content-type: application/x-www-form-urlencoded] -> 401"

	nothing = "stored: nothing"
)

// times is a line that comes n times in a row.
func times(n int, line string) string { return fmt.Sprintf("%d × %s", n, line) }

// read is a call with access#n.
func read(n int, outcome string) string {
	return fmt.Sprintf("GET /v1/workspaces [authorization: Bearer access#%d] -> %s", n, outcome)
}

// refreshed is a token request with refresh#n.
func refreshed(n int, outcome string) string {
	return fmt.Sprintf("POST /token [content-type: application/x-www-form-urlencoded] "+
		"client_id=client_public&grant_type=refresh_token&refresh_token=refresh#%d -> %s", n, outcome)
}

// exchanged is a token request with the first code.
func exchanged(outcome string) string {
	return "POST /token [content-type: application/x-www-form-urlencoded] client_id=client_public&code=code#1" +
		"&code_verifier=verifier#1&grant_type=authorization_code&redirect_uri=http://localhost:8080/oauth/callback -> " + outcome
}

// begun is a login URL at a page.
func begun(page, responseType, scope string) string {
	return "login URL: ok, 22 characters of state, 43 of verifier, http://prisma" + page + "?client_id=client_public" +
		"&code_challenge=S256(verifier#1)&code_challenge_method=S256&redirect_uri=http://localhost:8080/oauth/callback" +
		"&response_type=" + responseType + "&scope=" + scope + "&state=state#1"
}

// kept is a storage in the end.
func kept(access, refresh int) string {
	return fmt.Sprintf(`stored: workspace "wksp_ada_one", access "access#%d", refresh "refresh#%d"`, access, refresh)
}

// differences are those of each scenario, in the order of its lines. A scenario that is
// not here is the same with both SDKs, but for everywhere.
var differences = map[string][]difference{
	"login URL with a parameter that is OAuth's": {
		{"reserved-parameters", begun("/authorize", "token", fullScope), `login URL: Error: "begin a login: An extra parameter uses a name that OAuth reserves."`},
	},
	"login URL without a scope": {
		{"default-scope", begun("/authorize", "code", ""), begun("/authorize", "code", fullScope)},
	},
	"login URL with a context that has ended": {
		{"wording", `login URL: Canceled: "(a AbortError of the platform)"`, `login URL: Canceled: "begin a login: context canceled"`},
	},
	"login URL of a server that lacks PKCE": {
		{"untrusted-server", begun("/authorize", "code", fullScope), `login URL: AuthError: "Prisma's authorization server can't be trusted with a login: its metadata is not acceptable."`},
	},
	"login at a server that says where its endpoints are": {
		{"discovery", begun("/authorize", "code", fullScope), begun("/oauth/authorize", "code", fullScope)},
		{"discovery", exchanged("200"), strings.Replace(exchanged("200"), "/token", "/oauth/token", 1)},
	},
	"callback URL that is none": {
		{"wording", `callback: AuthError: "Invalid callback URL"`, `callback: AuthError: "Invalid callback URL."`},
	},
	"callback with an error to deceive terminals": {
		{"clean-callback-errors", "callback: AuthError: \"access_denied: \\x1b[2Jall\\u202e fine\\r\\n" + strings.Repeat("x", 400) + "\"", "callback: AuthError: \"access_denied: [2Jall fine " + strings.Repeat("x", 288) + "…\""},
	},
	"callback without a code": {
		{"wording", `callback: AuthError: "No authorization code found in callback URL"`, `callback: AuthError: "No authorization code in the callback URL."`},
	},
	"callback with a wrong state": {
		{"wording", `callback: AuthError: "Invalid state parameter. Possible CSRF attack."`, `callback: AuthError: "Invalid state parameter: this callback belongs to no login that was begun here."`},
	},
	"callback without a state": {
		{"wording", `callback: AuthError: "Invalid state parameter. Possible CSRF attack."`, `callback: AuthError: "Invalid state parameter: this callback belongs to no login that was begun here."`},
	},
	"callback with two codes": {
		{"doubled-parameters", exchanged("200"), ""},
		{"doubled-parameters", "callback: ok", `callback: AuthError: "Invalid callback URL."`},
		{"doubled-parameters", kept(1, 1), nothing},
	},
	"callback of another issuer": {
		{"issuer-check", exchanged("200"), ""},
		{"issuer-check", "callback: ok", `callback: AuthError: "The callback does not come from Prisma's authorization server."`},
		{"issuer-check", kept(1, 1), nothing},
	},
	"callback without an issuer": {
		{"issuer-check", exchanged("200"), ""},
		{"issuer-check", "callback: ok", `callback: AuthError: "The callback does not come from Prisma's authorization server."`},
		{"issuer-check", kept(1, 1), nothing},
	},
	"callback as a server sees it": {
		{"relative-callback", "", exchanged("200")},
		{"relative-callback", `callback: AuthError: "Invalid callback URL"`, "callback: ok"},
		{"relative-callback", nothing, kept(1, 1)},
	},
	"callback without a state when none is expected": {
		{"empty-state", exchanged("200"), ""},
		{"empty-state", "callback: ok", `callback: AuthError: "Invalid state parameter: this callback belongs to no login that was begun here."`},
		{"empty-state", kept(1, 1), nothing},
	},
	"callback without a verifier": {
		{"verifier-check", "POST /token [content-type: application/x-www-form-urlencoded] client_id=client_public&code=code#1&code_verifier=&grant_type=authorization_code&redirect_uri=http://localhost:8080/oauth/callback -> 400", ""},
		{"verifier-check", `callback: AuthError: "invalid_grant: code_verifier is missing or malformed"`, `callback: AuthError: "The verifier of this login is missing. Please log in again."`},
	},
	"login, call, logout, call": {
		{"wording", nobodyTheirs, nobodyOurs},
	},
	"login without offline access": {
		{"no-offline-access", `callback: AuthError: "Invalid token response format"`, "callback: ok"},
		{"no-offline-access", "", read(1, "200")},
		{"no-offline-access", nobodyTheirs, workspacesA},
		{"no-offline-access", nothing, `stored: workspace "wksp_ada_one", access "access#1", refresh ""`},
	},
	"login of a confidential client": {
		{"client-secret", "POST /token [content-type: application/x-www-form-urlencoded] client_id=client_partner&code=code#1&code_verifier=verifier#1&grant_type=authorization_code&redirect_uri=http://localhost:8080/oauth/callback -> 401", ""},
		{"client-secret", "", "POST /token [content-type: application/x-www-form-urlencoded] client_id=client_partner&client_secret=client-secret&code=code#1&code_verifier=verifier#1&grant_type=authorization_code&redirect_uri=http://localhost:8080/oauth/callback -> 200"},
		{"client-secret", `callback: AuthError: "invalid_client: the client is unknown or its secret is wrong"`, "callback: ok"},
		{"client-secret", nothing, kept(1, 1)},
	},
	"same callback twice": {
		{"wording", `callback: AuthError: "invalid_grant: the code was used before: what it gave is revoked"`, `callback: AuthError: "invalid_grant: Prisma did not accept the authorization code. Please log in again."`},
	},
	"code that is too old": {
		{"wording", `callback: AuthError: "invalid_grant: the code has expired"`, `callback: AuthError: "invalid_grant: Prisma did not accept the authorization code. Please log in again."`},
	},
	"login with a token endpoint that is down": {
		{"failure-classes", `callback: AuthError: "Token request failed with status 503"`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: status 503: temporarily_unavailable" (with its cause)`},
	},
	"login with a gateway's error page": {
		{"failure-classes", `callback: AuthError: "Failed to parse token response (status 502)"`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: status 502" (with its cause)`},
	},
	"login with a token endpoint that refuses for the moment": {
		{"failure-classes", `callback: AuthError: "slow_down"`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: misconfigured: status 429: slow_down" (with its cause)`},
	},
	"login with a broken connection": {
		{"wording", `callback: FetchError: "Network error during token exchange" (with its cause)`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
	},
	"login with half an answer": {
		{"failure-classes", `callback: AuthError: "Failed to parse token response (status 200)"`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: status 200: unexpected EOF" (with its cause)`},
	},
	"login with an access token that names no workspace": {
		{"failure-classes", `callback: Error: "Invalid JWT format"`, `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: status 200: the access token names no workspace" (with its cause)`},
	},
	"login with a redirect": {
		{"no-redirects", exchanged("200"), ""},
		{"no-redirects", "callback: ok", `callback: FetchError: "prisma: no usable answer: exchange the authorization code: prisma: token request: unknown: status 307" (with its cause)`},
		{"no-redirects", kept(1, 1), nothing},
	},
	"login with nobody there": {
		{"wording", `callback: FetchError: "Network error during token exchange" (with its cause)`, `callback: FetchError: "prisma: not sent: exchange the authorization code: prisma: token request: not_sent: dial tcp prisma: connect: connection refused" (with its cause)`},
	},
	"login with a storage that is down": {
		{"storage-errors", `callback: Error: "storage is down"`, `callback: Error: "store the tokens of the login: storage is down"`},
	},
	"login with a storage that fails twice": {
		{"storage-retried", `callback: Error: "storage is down"`, "callback: ok"},
		{"storage-retried", nothing, kept(1, 1)},
	},
	"logout with a storage that fails": {
		{"storage-errors", `logout: Error: "storage is down"`, `logout: Error: "log out: storage is down"`},
	},
	"client with a token and an Authorization header": {
		{"explicit-authorization", "GET /v1/workspaces [authorization: Bearer of-the-option] -> 401", ""},
		{"explicit-authorization", "", "GET /v1/workspaces [authorization: Bearer service-token] -> 200"},
		{"explicit-authorization", unauthorized, workspacesPartner},
	},
	"client with an Authorization header alone": {
		{"explicit-authorization", "GET /v1/workspaces -> 401", ""},
		{"explicit-authorization", "", "GET /v1/workspaces [authorization: Bearer service-token] -> 200"},
		{"explicit-authorization", unauthorized, workspacesPartner},
	},
	"client with an authorization header in lower case": {
		{"explicit-authorization", "GET /v1/workspaces [authorization: Bearer of-the-option] -> 401", ""},
		{"explicit-authorization", "", "GET /v1/workspaces [authorization: Bearer service-token] -> 200"},
		{"explicit-authorization", unauthorized, workspacesPartner},
	},
	"create a project by the path of the documentation": {
		{"project-path", `POST /v1/workspaces/wksp_partner/projects [authorization: Bearer service-token] [content-type: application/json] {"createDatabase":false,"name":"shop"} -> 201`, ""},
		{"project-path", "", `POST /v1/projects [authorization: Bearer service-token] [content-type: application/json] {"createDatabase":false,"name":"shop","workspaceId":"wksp_partner"} -> 201`},
	},
	"a project and its databases": {
		{"documented-fields", `  .data.apiKeys.0.database.id = "db#1"`, ""},
		{"documented-fields", `  .data.apiKeys.0.database.name = "main"`, ""},
		{"documented-fields", `  .data.apiKeys.0.database.url = "http://prisma/v1/databases/db#1"`, ""},
		{"documented-fields", `  .data.apiKeys.0.database.id = "db#2"`, ""},
		{"documented-fields", `  .data.apiKeys.0.database.name = "my-new-db-instance"`, ""},
		{"documented-fields", `  .data.apiKeys.0.database.url = "http://prisma/v1/databases/db#2"`, ""},
	},
	"id that is a dot segment": {
		{"ids-checked", "DELETE /v1/ [authorization: Bearer access#1] -> 404", ""},
		{"ids-checked", `delete database: APIError 404 resource-not-found: "The operation not found."`, `delete database: FetchError: "prisma: not sent: the id can't be part of a path" (with its cause)`},
	},
	"read that fails once": {
		{"reads-retried", "", read(1, "200")},
		{"reads-retried", `list workspaces: APIError 503 service-unavailable: "Try again later."`, workspacesA},
	},
	"read that always fails": {
		{"reads-retried", read(1, "503"), ""},
		{"reads-retried", "", times(3, read(1, "503"))},
	},
	"creation whose answer is lost": {
		{"wording", `create project: FetchError: "Network request failed" (with its cause)`, `create project: FetchError: "prisma: no usable answer: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
	},
	"read whose connection breaks once": {
		{"reads-retried", "", read(1, "200")},
		{"reads-retried", `list workspaces: FetchError: "Network request failed" (with its cause)`, workspacesA},
	},
	"read whose connection always breaks": {
		{"reads-retried", read(1, "reset"), ""},
		{"reads-retried", "", times(3, read(1, "reset"))},
		{"wording", `list workspaces: FetchError: "Network request failed" (with its cause)`, `list workspaces: FetchError: "prisma: no usable answer: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
	},
	"read with half an answer": {
		{"reads-retried", read(1, "200, cut"), ""},
		{"reads-retried", "", times(3, read(1, "200, cut"))},
		{"failure-classes", `list workspaces: TypeError: "(a TypeError of the platform)"`, `list workspaces: FetchError: "prisma: no usable answer: unexpected EOF" (with its cause)`},
	},
	"creation with half an answer": {
		{"failure-classes", `create project: TypeError: "(a TypeError of the platform)"`, `create project: FetchError: "prisma: no usable answer: unexpected EOF" (with its cause)`},
	},
	"answer that is not JSON": {
		{"failure-classes", `create project: SyntaxError: "(a SyntaxError of the platform)"`, `create project: FetchError: "prisma: no usable answer: the answer with status 200 is not the documented JSON" (with its cause)`},
	},
	"answer without data": {
		{"answers-checked", "create project: ok {}", `create project: FetchError: "prisma: no usable answer: the answer with status 201 is not the documented JSON" (with its cause)`},
	},
	"redirect": {
		{"no-redirects", read(1, "200"), ""},
		{"no-redirects", workspacesA, "list workspaces: APIError 307"},
	},
	"call with nobody there": {
		{"wording", `create project: FetchError: "Network request failed" (with its cause)`, `create project: FetchError: "prisma: not sent: dial tcp prisma: connect: connection refused" (with its cause)`},
	},
	"call with nobody logged in": {
		{"wording", nobodyTheirs, nobodyOurs},
	},
	"call with a storage that can't be read": {
		{"storage-errors", `list workspaces: FetchError: "API request failed" (with its cause)`, `list workspaces: Error: "read the tokens of connection sdk: storage is down"`},
	},
	"20 calls on an expired token": {
		{"refresh-before-expiry", times(20, read(1, "401")), ""},
	},
	"call shortly before the token expires": {
		{"refresh-before-expiry", read(1, "200"), ""},
		{"refresh-before-expiry", "", refreshed(1, "200")},
		{"refresh-before-expiry", "", read(2, "200")},
		{"refresh-before-expiry", kept(1, 1), kept(2, 2)},
	},
	"refresh that keeps its refresh token": {
		{"refresh-token-kept", "", read(2, "200")},
		{"refresh-token-kept", `list workspaces: AuthError: "Invalid token response format"`, workspacesA},
		{"refresh-token-kept", kept(1, 1), kept(2, 1)},
	},
	"refreshed token that names no workspace": {
		{"pair-kept", "", read(2, "401")},
		{"pair-kept", `list workspaces: FetchError: "API request failed" (with its cause)`, unauthorized},
		{"pair-kept", kept(1, 1), kept(2, 2)},
	},
	"refresh token that is refused": {
		{"wording", `list workspaces: AuthError (refresh token invalid): "invalid_grant: the authorization is revoked"`, deadOurs},
		{"wording", nobodyTheirs, nobodyOurs},
	},
	"client that is refused": {
		{"wording", `list workspaces: AuthError: "invalid_client: the client is unknown or its secret is wrong"`, `list workspaces: AuthError: "invalid_client: Prisma refused the token request. Check the client ID, the client secret and the redirect URI."`},
	},
	"refresh with a token endpoint that is down": {
		{"failure-classes", `list workspaces: AuthError: "Token request failed with status 503"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 503: temporarily_unavailable" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 503: temporarily_unavailable" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", read(2, "200"), ""},
		{"refresh-pause", workspacesA, ""},
		{"tokenless-probe", "", probe},
	},
	"refresh with a token endpoint that fails after its work": {
		{"failure-classes", `list workspaces: AuthError: "Token request failed with status 500"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 500: server_error" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 500: server_error" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", replayedTheirs, ""},
		{"refresh-pause", nobodyTheirs, deadOurs},
		{"tokenless-probe", "", probe},
	},
	"refresh with a gateway's error page": {
		{"failure-classes", `list workspaces: AuthError: "Failed to parse token response (status 502)"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 502" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 502" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", read(2, "200"), ""},
		{"refresh-pause", workspacesA, ""},
		{"tokenless-probe", "", probe},
	},
	"refresh that is limited": {
		{"failure-classes", `list workspaces: AuthError: "slow_down"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: misconfigured: status 429: slow_down" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: misconfigured: status 429: slow_down" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", read(2, "200"), ""},
		{"refresh-pause", workspacesA, ""},
	},
	"refresh with a broken connection": {
		{"failure-classes", `list workspaces: AuthError: "Network error during token refresh"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", read(2, "200"), ""},
		{"refresh-pause", workspacesA, ""},
		{"tokenless-probe", "", probe},
	},
	"refresh whose answer is lost": {
		{"failure-classes", `list workspaces: AuthError: "Network error during token refresh"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: read tcp prisma->prisma: read: connection reset by peer" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", replayedTheirs, ""},
		{"refresh-pause", nobodyTheirs, deadOurs},
		{"tokenless-probe", "", probe},
	},
	"refresh with half an answer": {
		{"failure-classes", `list workspaces: AuthError: "Failed to parse token response (status 200)"`, `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 200: unexpected EOF" (with its cause)`},
		{"refresh-pause", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 200: unexpected EOF" (with its cause)`},
		{"refresh-pause", "", read(1, "401")},
		{"refresh-pause", replayedTheirs, ""},
		{"refresh-pause", nobodyTheirs, deadOurs},
		{"tokenless-probe", "", probe},
	},
	"refresh with a redirect": {
		{"no-redirects", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 307" (with its cause)`},
		{"no-redirects", "", read(1, "401")},
		{"no-redirects", "", `list workspaces: FetchError: "prisma: not sent: refresh the access token: prisma: token request: unknown: status 307" (with its cause)`},
		{"no-redirects", "", read(1, "401")},
		{"no-redirects", read(2, "200"), ""},
		{"no-redirects", workspacesA, ""},
		{"no-redirects", read(2, "200"), ""},
		{"no-redirects", workspacesA, ""},
		{"tokenless-probe", "", probe},
	},
	"refresh with a storage that fails once": {
		{"storage-retried", "", read(2, "200")},
		{"storage-retried", `list workspaces: FetchError: "API request failed" (with its cause)`, workspacesA},
		{"storage-retried", read(1, "401"), ""},
		{"storage-retried", refreshed(1, "400"), ""},
		{"storage-retried", "", read(2, "200")},
		{"storage-retried", replayedTheirs, workspacesA},
		{"storage-retried", nothing, kept(2, 2)},
	},
	"two SDKs on one storage as it comes with each": {
		{"shared-storage", refreshed(1, "400"), ""},
		{"shared-storage", "", times(2, read(2, "200"))},
		{"shared-storage", "", times(2, workspacesA)},
		{"shared-storage", replayedTheirs, ""},
		{"shared-storage", nobodyTheirs, ""},
		{"shared-storage", nothing, kept(2, 2)},
	},
	"two SDKs on one storage that locks nothing": {
		{"compare-and-clear", "", read(2, "401")},
		{"compare-and-clear", replayedTheirs, unauthorized},
		{"compare-and-clear", "", read(2, "401")},
		{"compare-and-clear", "", refreshed(2, "400")},
		{"compare-and-clear", nobodyTheirs, deadOurs},
	},
	"logout during a refresh": {
		{"logout-holds", read(2, "200"), ""},
		{"logout-holds", workspacesA, nobodyOurs},
		{"logout-holds", kept(2, 2), nothing},
	},
	"login during a refresh that is refused": {
		{"compare-and-clear", "", read(2, "200")},
		{"compare-and-clear", `list workspaces: AuthError (refresh token invalid): "invalid_grant: the authorization is revoked"`, workspacesA},
		{"compare-and-clear", nothing, kept(2, 2)},
	},
	"call with a context that has ended": {
		{"wording", `create project: Canceled: "(a AbortError of the platform)"`, `create project: Canceled: "prisma: not sent: context canceled"`},
	},
	"callback with a context that has ended": {
		{"wording", `callback: Canceled: "(a AbortError of the platform)"`, `callback: Canceled: "context canceled"`},
	},
	"logout with a context that has ended": {
		{"wording", `logout: Canceled: "(a AbortError of the platform)"`, `logout: Canceled: "log out: context canceled"`},
	},
	"call whose context ends before the answer": {
		{"wording", `list workspaces: Canceled: "(a AbortError of the platform)"`, `list workspaces: Canceled: "prisma: no usable answer: context canceled"`},
	},
	"call whose context ends during a refresh": {
		{"cancel-at-once", "returned at once: false", "returned at once: true"},
		{"wording", `list workspaces: Canceled: "(a AbortError of the platform)"`, `list workspaces: Canceled: "wait for a token refresh: context canceled"`},
	},
	"callback whose context ends before the answer": {
		{"cancel-at-once", "returned at once: false", "returned at once: true"},
		{"cancel-at-once", "callback: ok", `callback: Canceled: "handle the callback, which goes on in the background: context canceled"`},
	},
}
