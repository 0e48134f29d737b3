// Package oauthflow takes a user from a partner's one-time link through Prisma's
// consent page to a connection, and ends connections again.
//
//	partner backend          browser                        this service            Prisma
//	POST /v1/connect-sessions ───────────────────────────▶ created, one-time URL
//	                         GET  /connect/{token} ───────▶ page names partner and user
//	                         POST /connect/{token} ───────▶ started; cookie {state, verifier}
//	                         ◀── 303 ──────────────────────────────────────────▶ /authorize
//	                         GET  /oauth/callback ────────▶ cookie = state = row; returned;
//	                                                        code and verifier parked, sealed
//	                         ◀── 303 to the partner with a completion code
//	POST …/complete ─────────────────────────────────────▶ completing; the code leaves the row
//	                                                        ── the one token request ──▶ /token
//	◀── connection ──────────────────────────────────────── connected
//
// Rules:
//   - Nothing happens on GET: link previews and prefetchers must not begin a flow.
//   - The cookie, the state and the row must agree in every part, compared in
//     constant time, and none may be empty.
//   - The token request is made only after the partner's backend has said, in its
//     own logged-in session, that the user who finished is the one who began. State
//     and PKCE can't show that: an attacker can send a victim a link of the
//     attacker's session.
//   - The code is taken out of the row before the request, so that it can't be
//     sent twice, whatever crashes. The process that has it sends it again in one case:
//     Prisma did not take the client's secret, and there is another one.
package oauthflow
