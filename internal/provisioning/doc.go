// Package provisioning acts in a user's Prisma workspace for a tenant: it lists,
// makes, changes and deletes projects, databases and credentials.
//
// What it creates, it creates once. Prisma has no idempotency keys, and an answer
// that got lost leaves open whether anything was made, so every creating call is
// an operation with a row of its own before anything is sent. The operation's id
// goes along as Prisma's logicalId, by which what was made can be found again:
//
//	BeginOperation ── done before ──────────▶ the same answer
//	  │    └───────── held by another ──────▶ fault.OperationInProgress
//	  │ running, leased for 30 s and renewed
//	  ├─ taken up again? look up ── found ──▶ adopt ─┐
//	  ▼                                              │
//	 POST ── refused, or never sent ──▶ failed       │
//	  │ └─── no usable answer ─▶ look up ── found ───┤
//	  │                            └─ not found ─▶ unknown: the next call with the
//	  ▼                                            same key takes it up again
//	 made ◀──────────────────────────────────────────┘
//	  └─ FinishOperation: done, events, audit rows, and the answer, in one transaction
//
// Between two POSTs of one operation there is always a look-up. What was adopted
// has a connection string that nobody saw, so it gets fresh credentials.
//
// Credentials take no logicalId. Their name at Prisma bears the marker instead, behind
// the name that was asked for ("app op_…"); partners are shown the name without it.
// Adopted ones are rotated.
//
// A creating call goes on when its client hangs up: it has its own deadline.
//
// # Late landings
//
// A create can land minutes after it was given up, and a process can die at any step. So
// an operation is due for a look from its first moment on, until it has ended with
// nothing in doubt (LookForLandings, run by a job). A look takes the operation as an
// attempt does, and never creates:
//
//	unknown, or its holder is dead
//	  ├─ nothing bears the marker ─▶ again: after 30 s, then at doubling pauses up to
//	  │                              10 min, for a day; then it has made nothing: failed
//	  └─ found ─┬─ no key, or a project ─▶ done, told by events
//	            └─ key ─▶ landed, told by events; the next call with the key gives it
//	                      a connection string and finishes it
//	done or landed, with a request in doubt
//	  └─ looks for doubles, as often and as long
//
// What landed stays and is told, also when nobody can ask for it any more and when its
// client was told that it failed: somebody may have found it and begun to use it. Only
// doubles go, where a server does not keep markers unique: what bears the marker beside
// what is recorded, is itself recorded nowhere, holds nothing but what came with it, and
// has been used by nobody. Every call that uses or changes something says so before it is
// sent, through the pass-through too, and of a call and a look that meet at a double the
// first wins (Condemn): the other finds it in use, or being deleted.
// A look that can't read the lists is repeated, for a week after the last request at most,
// and anew when the connection's user has connected again. A key stays with an operation of
// unknown outcome for good: as a new one it would make the same again. Credentials that
// somebody has rotated or given out meanwhile are not rotated by a late retry (reveal): its
// answer has no connection string.
//
// # Other changes
//
// Rotating and restoring create nothing, but their answers may get lost too: they are
// operations without a marker. Repeating a rotation is harmless, since only the last
// connection string counts; a restore is sent once an attempt, and the database tells
// whether it began. Renaming is sent once and may be repeated by the client.
//
// A deletion of unknown outcome is repeated here, until the thing is gone. What there will
// be to tell and to erase is stored before it is sent:
//
//	BeginDeletion ──▶ DELETE ── gone ──────────────▶ FinishDeletion: events, audit rows and
//	                    │ └──── refused ─▶ forgotten      secrets, in one transaction, once
//	                    └────── no clear answer, or the process died: the next call that
//	                            finds it gone finishes it; so do looks, for a day
//
// Each of these calls leaves its intent in the audit log before it is sent, and how it
// ended after that (changing).
package provisioning
