// Command drill breaks a running installation on purpose and prints what that cost. See
// docs/drill.md.
//
//	make drill           as much as one machine can do, about 25 minutes
//	make drill QUICK=1   less than three minutes
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/connect-prisma/server/internal/drill"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from the first signal on, a second one kills
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "drill: "+err.Error())
		os.Exit(1)
	}
}

// flags are what a run may be told. A count that is not given keeps the mode's.
type flags struct {
	Server string   `default:"bin/server" help:"The program under test." type:"existingfile"`
	Quick  bool     `help:"Counts for less than three minutes."`
	Seed   uint64   `help:"Of the choices; 0 takes a new one, which is printed."`
	Only   []string `help:"Only these scenarios: ${scenarios}."`
	Keep   bool     `help:"Leave logs and data behind."`

	Replicas    *int           `help:"Processes of the service."`
	Connections *int           `help:"Users' connections."`
	Rate        *int           `help:"Connections that become due in a second."`
	Kills       *int           `help:"SIGKILLs."`
	Pauses      *int           `help:"SIGSTOPs of 3 s."`
	LongPauses  *int           `help:"SIGSTOPs of 20 s."`
	OverPauses  *int           `help:"SIGSTOPs of 90 s."`
	Rolls       *int           `help:"SIGTERMs."`
	Crashes     *int           `help:"Crashes of Postgres."`
	DownFor     *time.Duration `help:"How long Postgres is down, at most."`
	SpoolDeaths *int           `help:"Crashes of Postgres with every replica killed."`
	FullDisks   *int           `help:"Crashes of Postgres with the spool's disk full."`
	Cuts        *int           `help:"COMMITs cut."`
	HangUps     *int           `help:"Callers who leave."`
	DeadFor     *time.Duration `help:"How long the token endpoint is dead, and fails."`
	LeewayKills *int           `help:"SIGKILLs with leeway."`
	StormRuns   *int           `help:"Runs of each storm."`
	Refused     *int           `help:"Connections refused at once."`
	Stuck       *int           `help:"Callers who wait for a hanging token endpoint."`
}

// run is the program without its process.
func run(ctx context.Context, args []string, out io.Writer) error {
	var f flags
	exited := false
	parser, err := kong.New(&f, kong.Name("drill"),
		kong.Description("Break a running installation on purpose, and count what that cost."),
		kong.Writers(out, out), kong.Exit(func(int) { exited = true }),
		kong.Vars{"scenarios": strings.Join(drill.Scenarios(), ", ")})
	if err != nil {
		return err
	}
	if _, err := parser.Parse(args); exited || err != nil {
		return err
	}
	for f.Seed == 0 {
		f.Seed = uint64(rand.Uint32()) //nolint:gosec // G404: a seed to print, no secret
		args = append(args, fmt.Sprint("--seed=", f.Seed))
	}
	err = drill.Run(ctx, drill.Config{
		Server: f.Server, Seed: f.Seed, Only: f.Only, Keep: f.Keep, Out: out, Counts: f.counts(), Timed: !f.Quick,
		Now: time.Now, //nolint:forbidigo // the one place where the clock is read
	})
	if err == nil || errors.Is(err, drill.ErrMissed) {
		_, _ = fmt.Fprintf(out, "\nThe same again: bin/drill %s\n", strings.Join(args, " "))
	}
	return err
}

func (f flags) counts() drill.Counts {
	c := drill.Full()
	if f.Quick {
		c = drill.Quick()
	}
	for _, one := range []struct {
		given *int
		into  *int
	}{
		{f.Replicas, &c.Replicas},
		{f.Connections, &c.Connections},
		{f.Rate, &c.Rate},
		{f.Kills, &c.Kills},
		{f.Pauses, &c.Pauses},
		{f.LongPauses, &c.LongPauses},
		{f.OverPauses, &c.OverPauses},
		{f.Rolls, &c.Rolls},
		{f.Crashes, &c.Crashes},
		{f.SpoolDeaths, &c.SpoolDeaths},
		{f.FullDisks, &c.FullDisks},
		{f.Cuts, &c.Cuts},
		{f.HangUps, &c.HangUps},
		{f.LeewayKills, &c.LeewayKills},
		{f.StormRuns, &c.StormRuns},
		{f.Refused, &c.Refused},
		{f.Stuck, &c.Stuck},
	} {
		if one.given != nil {
			*one.into = *one.given
		}
	}
	if f.DownFor != nil {
		c.DownFor = *f.DownFor
	}
	if f.DeadFor != nil {
		c.DeadFor = *f.DeadFor
	}
	return c
}
