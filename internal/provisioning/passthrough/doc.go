// Package passthrough lets a partner call any operation of Prisma's Management API with
// the token of a connection, so that Prisma's own SDK works against this service:
//
//	ANY …/prisma/v1/<path>?<query>
//	  │ path: documented, in the one spelling that means it ── else 400, 404, 405
//	  │ operation: not one of the refused (decisions.go) ──── else 403
//	  │ query: documented names, each once ────────────────── else 400
//	  │ body: up to 10 MiB, read as it is sent ────────────── else 413
//	  ▼
//	access token ──▶ audit: the intent of a changing call and what it uses, committed
//	  ▼
//	request, built anew: canonical path, listed headers, the connection's token
//	  │ 401: renew the token and send once more, if what was read of the body is kept
//	  ▼
//	audit: how it ended ──▶ status, listed headers and body, as they arrive
//
// Nothing of the client's request line reaches Prisma as it came: path and query are
// decoded, checked against the interface document and written anew. Headers pass by a
// list, in both directions, so that what nobody thought of stays here. Bodies pass as
// they are, compressed or not, through a buffer of 32 KiB.
//
// What a changing call uses are the ids in its path and those that its body names: of the
// few operations whose body does, up to 64 KiB are read before anything is sent.
//
// An answer that ends early breaks the client's transfer as well (ErrBroken): half an
// answer never looks like a whole one. HTTP/1.0 has no means to say so and is refused.
//
// A deletion of a project, a database or credentials is told like one by a route of this
// service: what there will be to tell is asked of Prisma and stored before the call is sent
// (one more read), told when Prisma says that it is done, and by a look when nobody knows.
// A rotation erases the connection string that is kept for replays before it is sent.
//
// Every 5 seconds it is asked whether the caller would still be let in. One that would not
// sends no more of a body, and gets no more of an answer.
//
// A changing call goes on when its client leaves, until Prisma's status is known and
// written down. It is sent once, whatever happens, except after a 401, with which Prisma
// has done nothing.
package passthrough
