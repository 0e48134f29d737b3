// Package devpg runs a private Postgres server for `dev` and for tests, from the
// binaries that are already on the machine. It downloads nothing.
//
// One directory holds one cluster:
//
//	<Dir>/data         the cluster itself; made elsewhere and renamed, so never half made
//	<Dir>/data.init-*  an initdb at work, or what a killed one left (removed at the next start)
//	<Dir>/password     the superuser's password, mode 0600
//	<Dir>/port         the TCP port, kept so that connection strings stay valid
//	<Dir>/lock         held with flock by the process that owns the server
//	<Dir>/postgres.log what the server says
//
// A cluster that has to lie apart from Dir has the file belongs-together, as Dir has: when
// Dir is removed, the next start removes the cluster.
//
// A start goes through these states:
//
//	            lock free                          no data
//	Start ──────────────────▶ own the directory ───────────▶ initdb ─┐
//	  │                             │ data                           │
//	  │ lock held, server ready     ▼                                ▼
//	  ▼                       clear a dead postmaster.pid, end an orphan
//	attached                        │
//	(Stop leaves the server)        ▼
//	                          postgres started ──▶ postmaster.pid says "ready" ──▶ owned
//
// The server dies with the process that started it, also when that process is
// killed: on Linux by the parent-death signal, elsewhere (and for ephemeral
// servers, whose files must go too) by a small shell that waits for the end of a
// pipe.
//
// Nothing of the environment reaches the server, because variables such as PGDATA
// or PGPORT would otherwise change what it does. It listens on 127.0.0.1 alone,
// wants a password (SCRAM-SHA-256) of everyone, and opens no Unix socket, so the
// 103 byte limit of socket paths never matters.
package devpg
