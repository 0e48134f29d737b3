// Package tenants holds what the service remembers: tenants and their keys,
// connect sessions, connections with their tokens, operations, events and the
// audit log. It owns the types, their rules and all of the SQL.
//
// Every exported method of Store is one transaction. It runs in the scope of the
// tenant that it is given, so that row-level security hides every other tenant
// even from a query that forgot its WHERE clause; the few that act across tenants
// say so. A change, its event and its audit row commit together.
//
// A connect session moves along these arrows, each a compare-and-set:
//
//	created ──click──▶ started ──callback──▶ returned ──complete──▶ completing ──▶ connected
//	   │                  │ ├─ user said no ─▶ denied                    │
//	   └──── 10 min ──────┴─┴──────────────▶ expired                      └─ code refused, outcome
//	                                                                         unknown ─▶ failed
//
// A connection:
//
//	active ◀──────────────▶ suspect      an exchange ended without a known outcome
//	   │                       │
//	   └──▶ needs_reconnect ◀──┘         the refresh token is dead; a reconnect makes it active
//	any ──▶ disconnected                 the tokens are gone
package tenants
