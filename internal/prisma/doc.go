// Package prisma talks to Prisma's platform: the Management API, the authorization
// server, and the rules by which a token pair is kept alive.
//
// It knows nothing of tenants or SQL. Where tokens live is behind TokenStorage; a
// storage that also implements RefreshLease lets several processes share one
// connection.
//
// # The pieces
//
//   - Client makes typed Management API calls with one bearer token.
//   - OAuth builds authorization URLs and makes token requests, each of them exactly
//     one HTTP request.
//   - Refresher keeps a connection's access token fresh.
//   - Caller joins them: it finds a token, makes the call, and after a 401 refreshes
//     and repeats it once.
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
//	    ├─ Claim ── held by another process ──> poll until its pair is stored
//	    │    └───── already replaced ─────────> use the stored pair
//	    │  due: the intent is durable
//	    ├─ more than 5 s since the claim? ────> Settle(NotSent)
//	    ├─ exchange: one request, 60 s to answer once it is written
//	    │    ├─ not sent, or our client refused ─> Settle, back off, nobody blamed
//	    │    ├─ invalid_grant ─> Settle, read again: replaced meanwhile, or reconnect
//	    │    └─ no usable answer ─> Settle(Unknown): never resent at once
//	    └─ Save, repeated until it succeeds ──> only then handed to callers
//
// The storage's clock is the only one that decides about expiry; this process
// contributes elapsed time on its monotonic clock.
package prisma
