package sdkcompare_test

// reason explains a difference, in the words of the documentation: what ours does
// instead, and why that is wanted.
type reason struct{ id, what, why string }

// reasons explain the differences, each one wanted. The documentation has the same table.
var reasons = []reason{
	// Login URL.
	{
		"discovery", "reads the authorization server's metadata (RFC 8414) and uses the endpoints it names",
		"an endpoint may move without a new version of this package; without metadata the usual paths are used",
	},
	{
		"untrusted-server", "refuses a server whose metadata is not acceptable, for example without PKCE",
		"a code that is not bound to this login could be used by whoever intercepts it",
	},
	{
		"default-scope", "asks for `workspace:admin offline_access` when no scope is given",
		"an empty scope is never what was meant; the server would refuse it",
	},
	{
		"reserved-parameters", "refuses further parameters that would replace OAuth's own",
		"one of them could switch off the state, PKCE or the response type",
	},
	// Callback.
	{
		"clean-callback-errors", "strips control characters from a callback's error and cuts it to 300 characters",
		"anybody can make such a URL, and the message ends up on terminals and in logs",
	},
	{
		"doubled-parameters", "refuses a callback in which `code`, `state`, `error` or `iss` comes twice",
		"two readers could take different ones",
	},
	{
		"empty-state", "never accepts a callback when no state is expected",
		"two missing values are equal, so a lost session would let a forged callback pass",
	},
	{
		"verifier-check", "fails before the token request when the verifier is missing",
		"the code would be spent on a request that can't succeed",
	},
	{
		"issuer-check", "compares `iss` with the authorization server (RFC 9207)",
		"a code of another server must not be presented to this one",
	},
	{
		"relative-callback", "takes the path and query of a callback too",
		"that is what a Go server has in `http.Request.URL`",
	},
	{
		"client-secret", "can authenticate a confidential client, always with PKCE as well",
		"a server should have a secret; the published SDK has no place for it",
	},
	{
		"no-offline-access", "accepts a login without a refresh token",
		"without `offline_access` there is none, and the access token works for an hour",
	},
	// Storage.
	{
		"expiry-kept", "stores when the access token was issued and when it ends",
		"only so can a token be refreshed before calls fail",
	},
	{
		"storage-retried", "tries again to store tokens when the storage fails",
		"they are the only live pair: after a failed write the old refresh token is worth nothing",
	},
	{
		"storage-errors", "returns a storage's error wrapped in what was being done, findable with `errors.Is`",
		"it is not an error of the network, and whoever wrote the storage can tell what it is",
	},
	{
		"compare-and-clear", "forgets a pair only if it is the one that was refused, whatever the storage offers",
		"a late refusal must not throw away the tokens of a login that has just happened",
	},
	{
		"shared-storage", "comes with storages (memory, file) that let one refresh happen at a time, across SDKs and processes",
		"a refresh token works once; the second to present it would end the whole login",
	},
	{
		"logout-holds", "drops the tokens of a refresh that a logout has overtaken",
		"who has logged out must not be logged in again by an answer that was late",
	},
	// Calls.
	{
		"request-headers", "asks for `application/json` and sends none of the headers of a browser's fetch",
		"what is not JSON is of no use",
	},
	{
		"explicit-authorization", "lets an explicit `Authorization` header win over the token",
		"that is what Prisma documents; the published code lets the token win and drops the header even without a token",
	},
	{
		"project-path", "makes a project by `POST /v1/projects`",
		"the path in Prisma's example is no longer part of the published interface",
	},
	{
		"documented-fields", "decodes the documented fields of an answer and leaves out others",
		"answers are Go types, made from the interface document",
	},
	{
		"ids-checked", "refuses empty ids and dot segments",
		"a URL parser makes another path of them: `DELETE /v1/databases/..` becomes `DELETE /v1/`",
	},
	{
		"reads-retried", "repeats reads after 429, 5xx and network errors, within a budget; never a creation",
		"most such failures are gone a moment later, and a read can't do harm twice",
	},
	{
		"no-redirects", "follows no redirect, of the API or the token endpoint",
		"a token must not go where somebody else's `Location` header says",
	},
	{
		"answers-checked", "reports a success without the documented body as an error",
		"an empty result would only fail later, and less clearly",
	},
	// Refresh.
	{
		"refresh-before-expiry", "refreshes a token that is about to expire before it is sent",
		"no call has to fail first; in the last quarter of its life that happens behind the callers' backs",
	},
	{
		"refresh-pause", "after a failed refresh sends the refresh token again only after a pause",
		"it may be spent, and presenting it at once would do the more harm the more calls there are; a sick server is spared",
	},
	{
		"tokenless-probe", "sends a refresh token whose fate is unknown again only late, at growing pauses, and only after asking the token endpoint, without a token, whether it answers",
		"an early try could end an access token that still works; a late one can only help, but not in an outage",
	},
	{
		"refresh-token-kept", "keeps the old refresh token when the answer brings no new one",
		"that is what RFC 6749 says; failing would lose a login that is alive",
	},
	{
		"pair-kept", "stores a refreshed pair whose workspace can't be read",
		"the old pair is dead by then, and a refresh never changes the workspace",
	},
	// Errors.
	{
		"failure-classes", "`*FetchError` for every failure of the network or of Prisma, unreadable answers included",
		"`*AuthError` means that a person has to act; a server that is down passes by itself",
	},
	{
		"cancel-at-once", "returns at once when the context ends; a token request that was sent goes on and its tokens are stored",
		"hanging up would lose the pair, and a caller that gave up should not wait for it",
	},
	{
		"wording", "says the same in other words, with Go's reasons and without what the server or a library chose to say",
		"messages may be logged; the class, `RefreshTokenInvalid` and `Code` are what programs act on",
	},
}
