package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

// fenceCommand is about where the database is, and whether refresh tokens may be
// presented from there.
type fenceCommand struct {
	Accept fenceAcceptCommand `cmd:"" help:"Allow token requests from a database that was moved, restored or failed over."`
}

// fenceAcceptCommand shows what changed and decides that it is all right.
type fenceAcceptCommand struct {
	Yes bool `help:"Don't ask."`
}

const (
	// acceptWord is what has to be typed.
	acceptWord = "accept"
	// beatEndsWithin bounds the good-bye of a replica; without it the others find out.
	beatEndsWithin = 5 * time.Second
)

// Run implements the command.
func (f *fenceAcceptCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		state, err := store.Fence(ctx)
		if err != nil {
			return err
		}
		c.printf("is:  %s\n", state.Here)
		if state.Open() {
			c.printf("Token requests are allowed here; there is nothing to decide.\n")
			return nil
		}
		c.printf("was: %s (%s, %s)\n", state.Decided.Place, state.Decided.What, state.Decided.At.UTC().Format("2006-01-02 15:04:05 MST"))
		explain(c, state)
		if !f.Yes {
			if err := confirm(c); err != nil {
				return err
			}
		}
		if err := store.AcceptFence(ctx, c.by, state); err != nil {
			return err
		}
		c.printf("Accepted. Running replicas go on by themselves.\n")
		return nil
	})
}

// explain says what accepting does.
func explain(c *console, state tenants.FenceState) {
	if state.Decided.What == tenants.DecidedWritesLost {
		c.printf("A replica found that this database has forgotten token pairs or beats that it had acknowledged.\n")
	}
	c.printf(`
A refresh token works once. If another copy of this database is in use anywhere,
accepting this one breaks connections in both: stop the other first, for good.
Connections that were renewed after this copy was made have to be connected again.
`)
}

// confirm asks on the console.
func confirm(c *console) error {
	c.printf("Type %q to allow token requests from here: ", acceptWord)
	line, err := bufio.NewReader(c.stdin).ReadString('\n')
	if strings.TrimSpace(line) == acceptWord {
		return nil
	}
	if err != nil && line == "" {
		return fmt.Errorf("nothing was accepted: nobody answered; --yes doesn't ask: %w", err)
	}
	return errors.New("nothing was accepted")
}

// beat lets the other replicas know that this one lives, and watches whether the
// database stays the one that tokens may be presented from, until the returned function
// is called: after the drain, because until then this replica holds intents.
func (s *service) beat(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	beating.Go(func() { s.store.KeepBeating(ctx) })
	return func() {
		cancel()
		beating.Wait()
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatEndsWithin)
		defer cancel()
		if err := s.store.EndBeats(within); err != nil {
			s.log.WarnContext(within, "the row of this replica stays", slog.Any("error", err))
		}
	}
}
