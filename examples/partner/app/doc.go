// Package app is a sample partner app: a small web application whose users
// connect their Prisma workspace and make databases in it, by way of a Connect
// Prisma server. It knows nothing of that server but its REST API.
//
// The connect flow, with what this app does at each step:
//
//	browser                        this app                          Connect Prisma
//	  │ POST /connect                │                                  │
//	  │─────────────────────────────▶│ POST /v1/connect-sessions        │
//	  │                              │─────────────────────────────────▶│
//	  │ 303 to the one-time link     │ notes the session id in the      │
//	  │◀─────────────────────────────│ user's own signed cookie         │
//	  │                                                                 │
//	  │ the user consents on Prisma's page, led there and back          │
//	  │◀───────────────────────────────────────────────────────────────▶│
//	  │ GET /callback?sessionId&completionCode                          │
//	  │─────────────────────────────▶│ is it a session that this        │
//	  │                              │ browser's user began? if so:     │
//	  │                              │ POST /v1/connect-sessions/{id}/complete
//	  │                              │─────────────────────────────────▶│
//	  │ 303 home, connected          │ the connection                   │
//	  │◀─────────────────────────────│◀─────────────────────────────────│
//
// The question before the last call is the one that must not be left out.
// Somebody could begin a session, and get another person to finish it by sending
// them the link: that person's workspace would end up in the sender's account. The
// server cannot tell, only the partner knows who is logged in. So a session id
// that this browser did not begin is refused and never completed.
//
// The second rule: the API key speaks for every user of the partner. Before it
// acts on a connection, each handler checks whose it is (see ownConnection).
package app
