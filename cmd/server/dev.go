package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/connect-prisma/server/examples/partner/app"
	"github.com/connect-prisma/server/internal/prismasim"
)

// devCommand runs everything on one machine.
type devCommand struct {
	DataDir         string `default:".dev" help:"Where everything is kept between starts."`
	Listen          string `default:"127.0.0.1:8080" help:"Where the service listens."`
	SimulatorListen string `default:"127.0.0.1:8081" help:"Where the Prisma simulator listens."`
	SampleListen    string `default:"127.0.0.1:8082" help:"Where the sample partner app listens."`
}

// development is one running dev.
type development struct {
	cmd       *devCommand
	console   *console
	log       *slog.Logger
	state     devState
	db        *devDatabases
	listeners struct{ service, simulator, sample net.Listener }
	simulator *prismasim.Simulator
	service   *service
	settings  settings
}

// Run implements the command.
func (cmd *devCommand) Run(ctx context.Context, c *console) error {
	began := time.Now()
	dir, err := filepath.Abs(cmd.DataDir)
	if err != nil {
		return err
	}
	cmd.DataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // G304: below the data directory
	if err != nil {
		return err
	}
	defer logFile.Close()
	log, err := newLogger(logFile, "info")
	if err != nil {
		return err
	}
	if err := forgetPGVariables(); err != nil {
		return err
	}
	if err := cmd.withdraw(); err != nil {
		return err
	}
	d := &development{cmd: cmd, console: c, log: log}
	defer d.close(context.WithoutCancel(ctx))
	if err := d.prepare(ctx); err != nil {
		return err
	}
	return d.run(ctx, began)
}

// forgetPGVariables removes libpq's variables from this process: pgx reads them
// too, and a PGOPTIONS of the user's shell must not reach the service.
func forgetPGVariables() error {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "PG") {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare builds everything without serving yet.
func (d *development) prepare(ctx context.Context) error {
	if err := d.listen(ctx); err != nil {
		return err
	}
	var err error
	if d.state, err = loadDevState(filepath.Join(d.cmd.DataDir, devStateFile)); err != nil {
		return err
	}
	if d.db, err = openDevDatabase(ctx, d.console, d.cmd.DataDir, d.state, d.log); err != nil {
		return err
	}
	d.settings = settings{
		DatabaseURL: d.db.App, MigrateDatabaseURL: d.db.Owner, Environment: environmentDevelopment,
		ListenAddr: d.listeners.service.Addr().String(), PublicURL: localURL(d.listeners.service),
		PrismaAPIURL: d.simulatorURL(), PrismaAuthURL: d.simulatorURL(),
		PrismaClientID: devClientID, PrismaClientSecret: d.state.ClientSecret,
		CookieKeys: d.state.CookieKeys, TokenKeyset: d.state.TokenKeyset, LogLevel: "info",
		SpoolDir: filepath.Join(d.cmd.DataDir, "spool"),
	}
	d.simulator, err = prismasim.New(ctx, prismasim.Config{
		URL: d.simulatorURL(), DatabaseURL: d.db.Admin, StateDir: filepath.Join(d.cmd.DataDir, "simulator"),
		OnClockAdvance: d.db.advance, Logger: d.log,
		Seed: devSeed(d.state, []string{d.settings.PublicURL + "/oauth/callback"}),
	})
	if err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	if d.service, err = newService(ctx, d.settings, d.log); err != nil {
		return err
	}
	return d.seed(ctx)
}

// listen takes the ports first: a taken one is the likeliest reason to stop.
func (d *development) listen(ctx context.Context) error {
	for _, one := range []struct {
		into       *net.Listener
		addr, flag string
	}{
		{&d.listeners.service, d.cmd.Listen, "--listen"},
		{&d.listeners.simulator, d.cmd.SimulatorListen, "--simulator-listen"},
		{&d.listeners.sample, d.cmd.SampleListen, "--sample-listen"},
	} {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", one.addr)
		if err != nil {
			return fmt.Errorf("%s: %w; give another address with %s", one.addr, err, one.flag)
		}
		*one.into = listener
	}
	return nil
}

// localURL names a listener as localhost, so that passkeys and __Host- cookies
// work in a browser.
func localURL(l net.Listener) string {
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "http://" + l.Addr().String()
	}
	return "http://localhost:" + port
}

func (d *development) simulatorURL() string { return "http://" + d.listeners.simulator.Addr().String() }

// run serves everything until ctx ends, and then ends it in order: first the
// service, whose exchanges the simulator has to answer.
func (d *development) run(ctx context.Context, began time.Time) error {
	sample, err := app.New(app.Config{
		ConnectURL: d.settings.PublicURL, APIKey: d.state.APIKey, PublicURL: localURL(d.listeners.sample),
		SessionKey: []byte(d.state.SessionKey), Logger: d.log,
	})
	if err != nil {
		return fmt.Errorf("sample app: %w", err)
	}
	platform, stopPlatform := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPlatform()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveUntil(platform, d.listeners.simulator, d.simulator, d.log) })
	group.Go(func() error { return serveUntil(ctx, d.listeners.sample, sample, d.log) })
	group.Go(func() error {
		defer stopPlatform()
		return d.service.serve(ctx, d.listeners.service)
	})
	group.Go(func() error { return d.announce(ctx, began) })
	err = group.Wait()
	err = errors.Join(err, d.cmd.withdraw())
	if err == nil {
		d.console.printf("\nStopped. The data stays in %s.\n", d.cmd.DataDir)
	}
	return err
}

// close ends what prepare began, whatever of it there is.
func (d *development) close(ctx context.Context) {
	if d.service != nil {
		d.service.close()
	}
	if d.simulator != nil {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		if err := d.simulator.Close(ctx); err != nil {
			d.log.WarnContext(ctx, "simulator did not close", slog.String("error", err.Error()))
		}
	}
	for _, l := range []net.Listener{d.listeners.service, d.listeners.simulator, d.listeners.sample} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				d.log.WarnContext(ctx, "listener did not close", slog.String("error", err.Error()))
			}
		}
	}
	if d.db != nil {
		d.db.stop()
	}
}
