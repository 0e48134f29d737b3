// Package limits holds each tenant to its rates and to the number of its calls at
// once, over all replicas, and slows down those who guess keys.
//
// A rate is one token bucket a tenant, a row in Postgres. A replica borrows a slice of
// it, as large as what it was asked for within the last second, and spends that by
// itself:
//
//	request ──▶ slice at hand? ──yes──▶ served                       (no statement;
//	               │                     when a fourth is left, the next is borrowed meanwhile)
//	               │ no
//	               ▼
//	            borrow: one statement ──▶ granted ──▶ served
//	               │                        └─ nothing: refused, and so is whoever comes
//	               │                           within the next 100 ms   (no statement)
//	               └─ database away: a tenth of the rate or less, by this replica's own
//	                  clock, until a borrow works again
//
// So no token is spent twice, whatever the number of replicas, and a slice that is not
// spent lapses after two seconds: a replica keeps back what it was asked for lately, and
// no more. A bucket that is asked more than it has is emptied by all together.
//
// Calls at once are counted by each replica for itself: its share is the tenant's limit
// divided by the replicas that are alive, and what is left over goes to the first of them.
// A call that finds its share used waits a second for its turn. Streams, which stay open, are counted apart and against the
// same number: they would lock the tenant out of its other calls.
//
// Failed authentication is counted by key, and by address once for each different key.
// Keys that were issued here, or have worked here lately, are let through all the same, so
// that one bad client does not shut out its neighbours behind the same address; of the
// others only a few from one address are looked up at a time.
package limits
