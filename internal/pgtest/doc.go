// Package pgtest gives every test a migrated Postgres database of its own.
//
//	db := pgtest.Open(t)        // db.Pool runs as connect_app, as the service does
//	db.Advance(t, 24*time.Hour) // a day passes for this database alone
//
// The server is, in this order: the one that TEST_DATABASE_URL names (its role must
// be a superuser); one started from the Postgres installed on this machine, on
// /dev/shm where there is room; a container, when a Docker engine answers. With none
// of them the test fails: it never skips.
//
// A server of our own lives as long as the test process, whatever ends it. To share
// one between the packages of a run, start the run with the command in withpg.
//
// Databases are copies of a template that is named by the fingerprint of the
// migrations:
//
//	            advisory lock (one at a time, over all processes)
//	first Open ───────────────▶ connect_template_building_… ──migrate──▶ renamed to connect_template_<fingerprint>
//	every Open ───────────────▶ CREATE DATABASE connect_test_… TEMPLATE … ──test ends──▶ DROP DATABASE
//
// The rename comes last, so a template that exists is whole. Nobody can connect to
// it, so a copy never fails because of a stray connection. What was left behind by
// killed processes is dropped by a later one.
package pgtest
