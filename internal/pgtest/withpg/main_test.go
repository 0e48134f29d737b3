package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	main "github.com/connect-prisma/server/internal/pgtest/withpg"
)

// First arguments of this binary that make it something else than a test.
const (
	asCommand = "withpg"     // the command itself
	asProbe   = "withpg-run" // what the command runs: says who it is on the server
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case asCommand:
			os.Exit(main.Run(os.Args[2:], os.Stderr))
		case asProbe:
			if err := probe(); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func probe() error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv(pgtest.EnvURL))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var super bool
	if err := conn.QueryRow(ctx, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&super); err != nil {
		return err
	}
	fmt.Printf("superuser %t\n", super)
	return nil
}

// command returns the command withpg, to run args.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), self(t), append([]string{asCommand}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), pgtest.EnvURL+"=") // a server of its own
	return cmd
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		want int
	}{
		"success":      {[]string{"--", "true"}, 0},
		"its own":      {[]string{"--", "sh", "-c", "exit 7"}, 7},
		"killed":       {[]string{"sh", "-c", "kill -9 $$"}, 128 + 9},
		"not there":    {[]string{"--", "/nonexistent/command"}, 127},
		"no command":   {nil, 2},
		"no command 2": {[]string{"--"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, tc.args...)
			err := cmd.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			} else if ok && exit.ExitCode() != tc.want || !ok && tc.want != 0 {
				t.Errorf("exit = %v, want %d", err, tc.want)
			}
		})
	}
}

func TestCommandGetsTheServer(t *testing.T) {
	t.Parallel()
	cmd := command(t, "--", self(t), asProbe)
	cmd.Env = append(cmd.Env, "PGHOST=/nonexistent", "PGOPTIONS=-c nonsense=1", "PGSERVICE=none")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "superuser true\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSignalIsPassedOnAndServerStops(t *testing.T) {
	t.Parallel()
	cmd := command(t, "--", "sh", "-c", `trap 'echo caught; exit 9' TERM; echo "$TEST_DATABASE_URL"; while :; do sleep 0.05; done`)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatal("the command did not start")
	}
	url := lines.Text()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "caught" {
		t.Errorf("the command said %q, want caught", lines.Text())
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 9 {
		t.Errorf("exit = %v, want 9", err)
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("the server still runs")
	}
}

func TestGivenServerIsUsedAndLeft(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	cmd := command(t, "--", "sh", "-c", `echo "$TEST_DATABASE_URL"`)
	cmd.Env = append(cmd.Env, pgtest.EnvURL+"="+db.AdminURL)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(out)) != db.AdminURL {
		t.Error("the command got another server than the one given")
	}
	if err := db.Pool.Ping(t.Context()); err != nil {
		t.Errorf("the given server after the command: %v", err)
	}
}
