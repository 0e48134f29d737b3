package dev_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// postgresPID returns the process id of dev's own Postgres.
func postgresPID(tb testing.TB, d *processtest.Dev) int {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(d.Dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		tb.Fatalf("dev's Postgres: %v", err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// silent tells whether nobody listens at the port of a URL.
func silent(tb testing.TB, raw string) bool {
	tb.Helper()
	conn, err := (&net.Dialer{Timeout: processtest.CallLimit}).DialContext(context.WithoutCancel(tb.Context()), "tcp", "127.0.0.1:"+processtest.Port(tb, raw))
	if err != nil {
		return true
	}
	if err := conn.Close(); err != nil {
		tb.Error(err)
	}
	return false
}

// TestDevKeepsItsData stops a dev by each signal and kills it, and finds everything
// again at the next start: the tenant, its key, the connection, the database.
func TestDevKeepsItsData(t *testing.T) {
	t.Parallel()
	with := processtest.DevOptions{Dir: processtest.DataDir(t), Ports: processtest.FixedPorts(t)}
	d := processtest.StartDev(t, with)
	t.Logf("first start: %s", d.Ready)
	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	held := d.Connect(t, "keeper")
	made := d.Partner().CreateDatabase(t, held, "kept")
	processtest.WriteNote(t, made.Credentials.ConnectionString, "before every restart")
	before := d.DevInfo

	for _, end := range []struct {
		name string
		sig  syscall.Signal
	}{{"Ctrl-C", syscall.SIGINT}, {"SIGTERM", syscall.SIGTERM}, {"kill -9", syscall.SIGKILL}} {
		pid := postgresPID(t, d)
		if end.sig == syscall.SIGKILL {
			d.Signal(t, end.sig)
			d.Wait(t)
			processtest.Eventually(t, "Postgres ends with the dev that was killed", func() bool { return !alive(pid) })
		} else {
			d.Stop(t, end.sig)
			if alive(pid) {
				t.Errorf("after %s Postgres still runs", end.name)
			}
			if out := d.Stdout.Tail(); !strings.Contains(out, "Stopped. The data stays in "+d.Dir) {
				t.Errorf("after %s dev says:\n%s", end.name, out)
			}
		}
		for _, address := range []string{d.PublicURL, d.SimulatorURL, d.SampleAppURL, d.DatabaseURL} {
			if !silent(t, address) {
				t.Errorf("after %s somebody still listens on port %s", end.name, processtest.Port(t, address))
			}
		}

		d = processtest.StartDev(t, with)
		t.Logf("start after %s: %s", end.name, d.Ready)
		checkKept(t, d, before, held, made)
	}
	if saw := d.Ledger(t).Counters; saw.CodeExchanges != 1 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want one code exchange and no replay", saw)
	}
}

func checkKept(t *testing.T, d *processtest.Dev, before processtest.DevInfo, held processtest.Connection, made processtest.Database) {
	t.Helper()
	if d.APIKey != before.APIKey || d.AdminPassword != before.AdminPassword || d.DatabaseURL != before.DatabaseURL ||
		d.ServiceToken != before.ServiceToken {
		t.Error("dev.json has other secrets than before the restart")
	}
	var found processtest.Connection
	d.Partner().Call(t, http.MethodGet, "/v1/connections/"+held.ID, nil, &found)
	if found != held {
		t.Errorf("connection = %+v, before the restart it was %+v", found, held)
	}
	var databases []processtest.Database
	d.Partner().Call(t, http.MethodGet, "/v1/connections/"+held.ID+"/databases", nil, &databases)
	if len(databases) != 1 || databases[0].ID != made.ID {
		t.Errorf("the workspace has %d databases, want the one from before", len(databases))
	}
	conn, err := pgx.Connect(t.Context(), made.Credentials.ConnectionString)
	if err != nil {
		t.Fatalf("open the database with its old connection string: %v", err)
	}
	defer conn.Close(t.Context())
	var note string
	if err := conn.QueryRow(t.Context(), `SELECT text FROM notes`).Scan(&note); err != nil || note != "before every restart" {
		t.Errorf("the database's content: %q, %v", note, err)
	}
}

// TestDevAsOrdinaryUser runs dev with no rights and no home, as far as this
// process's own allow.
func TestDevAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	with := processtest.DevOptions{Dir: processtest.DataDir(t)}
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, errUID := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(nobody.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			t.Fatal(err)
		}
		with.As = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(with.Dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	d := processtest.StartDev(t, with)
	pid := postgresPID(t, d)
	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	made := d.Partner().CreateDatabase(t, d.Connect(t, "ordinary"), "plain")
	if found := processtest.Tables(t, made.Credentials.ConnectionString); len(found) != 0 {
		t.Errorf("the new database has the tables %v, want none", found)
	}
	d.Stop(t, syscall.SIGINT)
	if alive(pid) {
		t.Error("after Ctrl-C Postgres still runs")
	}
}
