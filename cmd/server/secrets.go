package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// secretsCommand is the group of commands about the service's own secrets.
type secretsCommand struct {
	Generate secretsGenerateCommand `cmd:"" help:"Print a new COOKIE_KEYS and TOKEN_KEYSET."`
	Rotate   secretsRotateCommand   `cmd:"" help:"Replace the keys in TOKEN_KEYSET, in two steps."`
	Rewrap   secretsRewrapCommand   `cmd:"" help:"Seal everything in the database with the newest key, while the service runs."`
	Status   secretsStatusCommand   `cmd:"" help:"Show which keys the database's secrets are sealed with, and which keys the replicas have."`
	Retire   secretsRetireCommand   `cmd:"" help:"Print TOKEN_KEYSET without an old sealing key that nothing is sealed with any more."`
}

type secretsGenerateCommand struct{}

// Run implements the command. What it prints can be appended to an environment
// file.
func (*secretsGenerateCommand) Run(c *console) error {
	keyset, err := sealing.Generate()
	if err != nil {
		return err
	}
	c.printf("COOKIE_KEYS=%s\nTOKEN_KEYSET=%s\n", sealing.GenerateCookieKeys(), keyset)
	return nil
}

// secretsRotateCommand are the two steps that make new keys the ones that are written with:
// what one replica writes the others have to be able to read.
type secretsRotateCommand struct {
	Add     secretsAddCommand     `cmd:"" help:"Print TOKEN_KEYSET with new keys that nothing is written with yet. Give it to every replica."`
	Promote secretsPromoteCommand `cmd:"" help:"Print TOKEN_KEYSET that writes with the new keys. Refuses while a running replica does not have them."`
}

type secretsAddCommand struct{}

// Run implements the command.
func (*secretsAddCommand) Run(c *console) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	if err := cfg.require("TOKEN_KEYSET"); err != nil {
		return err
	}
	keyset, err := sealing.AddKeys(cfg.TokenKeyset)
	if err != nil {
		return fmt.Errorf("TOKEN_KEYSET: %w", err)
	}
	c.printf("TOKEN_KEYSET=%s\n", keyset)
	return nil
}

type secretsPromoteCommand struct{}

// Run implements the command.
func (*secretsPromoteCommand) Run(ctx context.Context, c *console) error {
	return withKeyset(ctx, c, sealing.PromoteKeys, func(store *tenants.Store, keyset string) error {
		if err := store.CheckReplicaKeys(ctx, true); err != nil {
			return forPeople(err)
		}
		c.printf("TOKEN_KEYSET=%s\n", keyset)
		return nil
	})
}

// withKeyset runs fn with a store that has a changed TOKEN_KEYSET.
func withKeyset(ctx context.Context, c *console, change func(string) (string, error), fn func(*tenants.Store, string) error) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	if err := cfg.require("TOKEN_KEYSET"); err != nil {
		return err
	}
	keyset, err := change(cfg.TokenKeyset)
	if err != nil {
		return fmt.Errorf("TOKEN_KEYSET: %w", err)
	}
	changed := *c
	changed.getenv = func(name string) string {
		switch name {
		case "TOKEN_KEYSET":
			return keyset
		case "TOKEN_KEYSET_FILE":
			return ""
		}
		return c.getenv(name)
	}
	return withStore(ctx, &changed, func(store *tenants.Store) error { return fn(store, keyset) })
}

type secretsRewrapCommand struct{}

// Run implements the command. It tells of its progress on standard error.
func (*secretsRewrapCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		sum, err := store.Rewrap(ctx, c.by, func(table string, values int) {
			if values%10_000 < 200 { // a batch has 200 values at most
				_, _ = fmt.Fprintf(c.stderr, "%s: %d\n", table, values)
			}
		})
		if err != nil {
			return forPeople(err)
		}
		c.printf("%d values are sealed with the newest key now.\n", sum.Values)
		if sum.Unreadable > 0 {
			return fmt.Errorf("%d values can't be opened with any key of TOKEN_KEYSET, and stay; `server secrets status` shows where", sum.Unreadable)
		}
		if sum.Left > 0 {
			return fmt.Errorf("%d values were in use all the time; run it again", sum.Left)
		}
		return nil
	})
}

type secretsStatusCommand struct{}

// Run implements the command.
func (*secretsStatusCommand) Run(ctx context.Context, c *console) error {
	return withKeyset(ctx, c, func(same string) (string, error) { return same, nil }, func(store *tenants.Store, text string) error {
		keyset, err := sealing.Parse(text, "any")
		if err != nil {
			return fmt.Errorf("TOKEN_KEYSET: %w", err)
		}
		uses, err := store.KeyUses(ctx)
		if err != nil {
			return err
		}
		replicas, err := store.ReplicaKeys(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "SEALING KEY\tSTATE\tVALUES\tIN")
		keys := keyset.SealKeys()
		for _, use := range uses {
			if !slices.Contains(keys, use.Key) {
				keys = append(keys, use.Key)
			}
		}
		for _, key := range keys {
			printKey(table, key, stateOf(key, keyset.SealKeys()), uses)
		}
		for _, key := range keyset.FingerprintKeys() {
			_, _ = fmt.Fprintf(table, "%d\tfingerprints, %s\t\t\n", key, stateOf(key, keyset.FingerprintKeys()))
		}
		_, _ = fmt.Fprintln(table, "REPLICA\tWRITES WITH\tHAS\t")
		for _, r := range replicas {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t\n", r.Replica, listKeys(r.Seal[:min(1, len(r.Seal))]), listKeys(r.Seal))
		}
		return table.Flush()
	})
}

// stateOf says what a key of a keyset is there for.
func stateOf(key uint32, keys []uint32) string {
	switch slices.Index(keys, key) {
	case 0:
		return "written with"
	case -1:
		return "not in TOKEN_KEYSET"
	}
	return "read with"
}

func printKey(table *tabwriter.Writer, key uint32, state string, uses []tenants.KeyUse) {
	total := 0
	for _, use := range uses {
		if use.Key == key {
			total += use.Values
		}
	}
	_, _ = fmt.Fprintf(table, "%d\t%s\t%d\t\n", key, state, total)
	for _, use := range uses {
		if use.Key == key {
			_, _ = fmt.Fprintf(table, "\t\t%d\t%s\n", use.Values, use.Column)
		}
	}
}

func listKeys(keys []uint32) string {
	if len(keys) == 0 {
		return "unknown"
	}
	ids := make([]string, 0, len(keys))
	for _, key := range keys {
		ids = append(ids, strconv.FormatUint(uint64(key), 10))
	}
	return strings.Join(ids, " ")
}

type secretsRetireCommand struct {
	Key uint32 `arg:"" help:"The key's number, as secrets status shows it."`
}

// Run implements the command.
func (cmd *secretsRetireCommand) Run(ctx context.Context, c *console) error {
	retire := func(keyset string) (string, error) {
		changed, err := sealing.RetireKey(keyset, cmd.Key)
		if errors.Is(err, sealing.ErrUnknownKey) {
			err = errors.New("it has no such sealing key; `server secrets status` shows them")
		}
		return changed, err
	}
	return withKeyset(ctx, c, retire, func(store *tenants.Store, keyset string) error {
		// No replica may write with it: one look at the rows would prove nothing then.
		if err := store.CheckReplicaKeys(ctx, true); err != nil {
			return forPeople(err)
		}
		uses, err := store.KeyUses(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, use := range uses {
			if use.Key == cmd.Key {
				left += use.Values
			}
		}
		if left > 0 {
			return fmt.Errorf("%d values are sealed with key %d; run `server secrets rewrap` first", left, cmd.Key)
		}
		c.printf("TOKEN_KEYSET=%s\n", keyset)
		return nil
	})
}
