// Command withpg runs a command with one Postgres server for all of its tests:
//
//	go run ./internal/pgtest/withpg -- go test -race ./...
//
// The server comes from where package pgtest finds one, its superuser's URL is in
// the command's TEST_DATABASE_URL, and it ends with the command. Signals are passed
// on. The exit code is the command's, 128 plus the signal if one ended it, 127 if it
// could not be started, and 1 if there is no server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/connect-prisma/server/internal/pgtest"
)

const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotStarted = 127
	exitSignal     = 128

	startTimeout = 5 * time.Minute // an image may have to be pulled
	stopTimeout  = 30 * time.Second
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run returns the exit code.
func run(args []string, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(stderr, "usage: withpg -- command [argument…]")
		return exitUsage
	}

	// They would lead this process's own connection elsewhere, and the command's.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); isPostgresVariable(variable) {
			_ = os.Unsetenv(name) // fails for empty names alone
		}
	}

	// From here on a signal must not end this process before the server is gone.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	server, code, err := startServer(signals)
	if err != nil {
		fmt.Fprintf(stderr, "withpg: %v\n", err)
		return code
	}
	code, err = runCommand(args, server.URL(), signals)
	if err != nil {
		fmt.Fprintf(stderr, "withpg: %v\n", err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		fmt.Fprintf(stderr, "withpg: %v\n", err)
		return max(code, exitFailed)
	}
	return code
}

// startServer starts the server unless a signal comes first; on an error it also
// returns the exit code.
func startServer(signals <-chan os.Signal) (*pgtest.Server, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()

	type result struct {
		server *pgtest.Server
		err    error
	}
	done := make(chan result, 1)
	go func() {
		server, err := pgtest.StartServer(ctx)
		done <- result{server, err}
	}()

	select {
	case r := <-done:
		return r.server, exitFailed, r.err
	case sig := <-signals:
		cancel()
		r := <-done
		err := fmt.Errorf("stopped by signal %q", sig)
		if r.err == nil {
			stopCtx, cancelStop := context.WithTimeout(context.Background(), stopTimeout)
			defer cancelStop()
			err = errors.Join(err, r.server.Stop(stopCtx))
		}
		return nil, exitSignal + number(sig), err
	}
}

// runCommand runs the command to its end and returns its exit code, with an error
// when it could not be started.
func runCommand(args []string, url string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec,noctx // G204: running what the caller names is its purpose; signals end it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), pgtest.EnvURL+"="+url)
	if err := cmd.Start(); err != nil {
		return exitNotStarted, fmt.Errorf("start the command: %w", err)
	}

	ended := make(chan struct{})
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case sig := <-signals:
				if !fromTerminal(sig) {
					_ = cmd.Process.Signal(sig) // it may just have ended
				}
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-forwarded

	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ok:
		return exitFailed, fmt.Errorf("wait for the command: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

func number(sig os.Signal) int {
	if n, ok := sig.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}
