// Package provisioning acts in a user's Prisma workspace for a tenant: it lists
// and makes projects, databases and credentials.
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
// Credentials take no logicalId. After a lost answer those are adopted, by
// rotating them, that bear the wanted name, are no older than the operation and
// belong to no other; in doubt new ones are made, because rotating the wrong ones
// would lock somebody out.
//
// A creating call goes on when its client hangs up: it has its own deadline.
package provisioning
