// Package prisma talks to Prisma's platform: it logs users in, keeps their tokens alive
// and stored, and calls the Management API for them.
//
//	storage, err := prisma.NewFileStorage(prisma.FileStorageConfig{})
//	sdk, err := prisma.NewSDK(prisma.SDKConfig{
//		ClientID: "…", RedirectURI: "http://localhost:8080/callback", TokenStorage: storage,
//	})
//	login, err := sdk.LoginURL(ctx, prisma.LoginOptions{})  // send the browser to login.URL
//	err = sdk.HandleCallback(ctx, callbackURL, login.Verifier, login.State)
//	projects, err := sdk.Client().ListProjects(ctx, managementapi.ListProjectsParams{})
//
// A program that has a service token needs none of this: package managementapi has the
// Client that both use, with a method for each operation.
//
// # The pieces
//
//   - SDK acts for one user: login, calls, logout. Its errors are AuthError (somebody has
//     to log in), FetchError (no usable answer) and APIError (Prisma said no).
//   - TokenStorage is where tokens live. There are MemoryStorage and FileStorage; three
//     methods make another one, and RefreshLock, RefreshLease and CompareAndClear are
//     what it may offer beyond them.
//   - OAuth builds authorization URLs and makes token requests, each of them exactly
//     one HTTP request.
//   - Refresher keeps a connection's access token fresh.
//   - Caller joins a Client and a Refresher for many connections: it finds a token, makes
//     the call, and after a 401 refreshes and repeats it once. FaultOf gives the errors
//     of a Client a kind.
//
// The package knows nothing of tenants or SQL. A storage with a RefreshLease lets several
// processes share one connection.
//
// # How a user logs in
//
//	LoginURL ──> state, verifier: kept where only this browser brings them back
//	   │
//	   └─> /authorize: the user chooses a workspace, or says no
//	         │
//	HandleCallback <── code, state, iss
//	   ├─ an error, no code, another state, another issuer ──> AuthError, nothing sent
//	   ├─ exchange: one request with the verifier (PKCE, S256)
//	   └─ SetTokens, with the workspace that the access token names
//
// # Where requests go
//
// The authorization server says it itself (RFC 8414): its metadata is read at the first
// need and hourly after that, and OAuth.FollowMetadata does so for services. It must name
// the configured issuer, endpoints on the issuer's origin, and PKCE with S256. One that
// can't be fetched changes nothing: /authorize and /token below the issuer then serve, or
// what was read before.
//
// # How a token is refreshed
//
// Prisma's refresh tokens are single use, and presenting a used one revokes the whole
// grant. So the one thing that must never happen is to lose the answer to an exchange
// or to send the same token twice:
//
//	access token younger than 75-85 % of its life ──> served
//	older, still valid ──> served, and a refresh starts in the background
//	expired, or refused by the API ──> the caller waits (at most 15 s) for:
//
//	  one flight per connection in this process (callers share it, none can cancel it)
//	    │
//	    ├─ the token endpoint in trouble? ────> nothing is claimed; come back later
//	    ├─ a place among the exchanges in flight: fair between shares, callers first
//	    ├─ Claim ── held by another process ──> poll until its pair is stored
//	    │    ├───── already replaced ─────────> use the stored pair
//	    │    ├───── sent before, too early ───> come back later
//	    │    └───── sent before, late ────────> probe the endpoint without a token, claim again
//	    │  due: the intent is durable
//	    ├─ more than 5 s since the claim? ────> Settle(NotSent)
//	    ├─ exchange: one request, 60 s to answer once it is written
//	    │    ├─ our client's secret refused, and there is another ─> Settle, Claim, once more
//	    │    ├─ not sent, or our client refused ─> Settle, back off, nobody blamed
//	    │    ├─ invalid_grant ─> Settle, read again: replaced meanwhile, or reconnect
//	    │    └─ no usable answer ─> Settle(Unknown): resent late, see below
//	    └─ Save, repeated until it succeeds ──> only then handed to callers
//	         └─ from the first failed try the pair is in the Spool too, if there is one
//
// A token whose answer was lost may have been used up or not. Sent again it either brings
// a pair, or ends a grant that was lost already; so it is sent again, but only when that
// can end nothing else: about when its access token ends (or was refused), and from then
// on after growing pauses, never while the lease of the time before runs. This ends
// with an answer, or when the refresh token is 90 days old.
//
// The storage's clock is the only one that decides about expiry; this process
// contributes elapsed time on its monotonic clock. A storage without a clock or a lease
// gets the process's clock, and the single flight, with its RefreshLock if it has one,
// for a lease; what is then missing is the durable trace of an exchange that a crash cut
// off.
package prisma
