// Package apitest runs the whole service inside a test: REST API, browser pages,
// connect flow and provisioning, on a Postgres database of the test's own and in
// front of a simulated Prisma. Time is in the test's hands.
//
// Every request and answer, every log line and every token request is recorded.
// When a test ends, the record is held against what must be true of any of them,
// whatever the test was about: no secret in a log line, page or problem; the
// security headers on every answer; no redirect outside the registered URLs; no
// answer above 499 that the test did not announce; problems with all their parts.
package apitest
