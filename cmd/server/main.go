// Command server is Connect Prisma: the service that partner apps run between
// their users and Prisma's platform.
//
//	server dev       everything on one machine: Postgres, simulator, sample app, service
//	server serve     the service alone, as in production
//	server --help    the other commands
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/connect-prisma/server/internal/tenants"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// From the first signal on, a second one kills: whoever is waiting for a drain
	// that hangs must not need another terminal.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		// One line, also for what pgx and joined errors spread over several.
		fmt.Fprintln(os.Stderr, "server: "+strings.NewReplacer("\n\t", " ", "\n", "; ").Replace(err.Error()))
		os.Exit(1)
	}
}

// commandLine is every command and its flags.
type commandLine struct {
	Dev      devCommand      `cmd:"" help:"Run everything on this machine: Postgres, the Prisma simulator, a sample partner app and the service."`
	Serve    serveCommand    `cmd:"" help:"Run the service."`
	Migrate  migrateCommand  `cmd:"" help:"Bring the database to this version's schema."`
	Simulate simulateCommand `cmd:"" help:"Run the Prisma simulator alone."`
	Tenant   tenantCommand   `cmd:"" help:"Create, list and change tenants."`
	Key      keyCommand      `cmd:"" help:"Create, list and revoke API keys."`
	Admin    adminCommand    `cmd:"" help:"Create admins of the dashboard and reset their passwords."`
	Import   importCommand   `cmd:"" help:"Take over the tokens that a partner holds already, from JSON lines on standard input."`
	Ledger   ledgerCommand   `cmd:"" help:"Verify the refresh ledger and the audit log."`
	Fence    fenceCommand    `cmd:"" help:"Decide about a database that was moved, restored or failed over."`
	Secrets  secretsCommand  `cmd:"" help:"Generate the service's own secrets, and replace them."`
}

// console is where a command reads and writes, and what it may look up.
type console struct {
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	by tenants.Actor // who it is, within withStore
}

// printf writes a line for people. A console that can't be written to is no
// reason to stop.
func (c *console) printf(format string, args ...any) { _, _ = fmt.Fprintf(c.stdout, format, args...) }

// run is the program without its process: end-to-end tests call it too.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	var line commandLine
	exited := false
	parser, err := kong.New(&line,
		kong.Name("server"),
		kong.Description("Connect Prisma: the service between partner apps and Prisma's platform."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }),
		kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&console{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}))
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if exited { // --help
		return nil
	}
	if parseErr, ok := errors.AsType[*kong.ParseError](err); ok {
		return fmt.Errorf("%w; `server --help` lists the commands", parseErr)
	}
	if err != nil {
		return err
	}
	return command.Run()
}
