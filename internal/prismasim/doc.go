// Package prismasim stands in for Prisma's platform on one origin: the
// authorization server (/authorize, /token, discovery) and the Management API
// (/v1), for development and tests. It keeps Prisma's rules as strictly as they
// are documented, above all the one that hurts: a refresh token works once, and
// showing it again revokes the whole grant.
//
//	browser ── GET /authorize ──▶ consent page ── POST /authorize ──▶ 303 code
//	client  ── POST /token ─────▶ access token (JWT, 1 h) + refresh token (90 d)
//	client  ── /v1/… ───────────▶ state in memory ──▶ journal file
//	                                  └──▶ real databases on a Postgres server
//	test    ── /_control/… ─────▶ clock, faults, consent mode, ledger, seed
//
// The databases it hands out are real: CREATE DATABASE on the server of
// Config.DatabaseURL, one owner role each, and one login role for each Prisma
// connection. State lives in memory under one RWMutex; every change is one
// append to a journal in Config.StateDir, so that it survives a kill of the
// process. Work on real databases never holds that lock.
//
// Time is Config.Now plus an offset that POST /_control/clock moves, so that
// tokens can age ninety days in a test.
package prismasim
