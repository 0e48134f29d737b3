// Package drill breaks a running installation on purpose and counts what that cost.
//
//	drill ── load ──▶ N × `server serve` ── wire (cuts COMMITs) ──▶ Postgres
//	  │                      │
//	  │                      └── platform (slow, failing, silent) ──▶ Prisma simulator
//	  └── SIGKILL, SIGSTOP, SIGTERM; crashes of Postgres; full disks; clocks
//
// The replicas are processes of the real program. After every scenario the faults end,
// what is still open is given the time to end, and then the database is compared with
// the simulator's own ledger of every refresh token. A connection is lost when the
// service says that its user must connect again, or when it no longer works and the
// service does not say so. For each lost one there has to be a reason that the service
// could do nothing about; what is left is avoidable loss, whose limit is 0.
//
// Lost connections are connected again before the next scenario, so that later ones
// meet as many.
package drill
