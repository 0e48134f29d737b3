package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

// keyCommand is the group of commands about API keys.
type keyCommand struct {
	Create keyCreateCommand `cmd:"" help:"Create an API key and print it, once."`
	List   keyListCommand   `cmd:"" help:"List a tenant's keys."`
	Revoke keyRevokeCommand `cmd:"" help:"Revoke a key."`
}

type keyCreateCommand struct {
	Tenant string        `arg:"" help:"The tenant's id."`
	Name   string        `default:"default" help:"What the key is for."`
	Scopes []string      `default:"read,write,connect" help:"Its rights: read, write, connect, passthrough."`
	For    time.Duration `help:"How long it is valid, such as 2160h. Default: until it is revoked."`
}

// Run implements the command. Standard output gets the key alone, so that it can
// be piped into a secret store.
func (cmd *keyCreateCommand) Run(ctx context.Context, c *console) error {
	tenant, err := tenants.ParseTenantID(cmd.Tenant)
	if err != nil {
		return errors.New("that is no tenant id; `server tenant list` shows them")
	}
	scopes := make([]tenants.Scope, 0, len(cmd.Scopes))
	for _, scope := range cmd.Scopes {
		scopes = append(scopes, tenants.Scope(scope))
	}
	if cmd.For < 0 {
		return errors.New("--for takes how long the key is valid, such as 2160h")
	}
	var expires time.Time
	if cmd.For > 0 {
		expires = time.Now().Add(cmd.For)
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		key, secret, err := store.CreateKey(ctx, c.by, tenant, cmd.Name, scopes, expires)
		if err != nil {
			return forPeople(err)
		}
		c.printf("%s\n", secret)
		_, _ = fmt.Fprintf(c.stderr, "This is the only time the key is shown. Its id is %s; it expires: %s.\n", key.ID, dateOrNever(key.ExpiresAt))
		return nil
	})
}

type keyListCommand struct {
	Tenant string `arg:"" help:"The tenant's id."`
}

// Run implements the command.
func (cmd *keyListCommand) Run(ctx context.Context, c *console) error {
	tenant, err := tenants.ParseTenantID(cmd.Tenant)
	if err != nil {
		return errors.New("that is no tenant id; `server tenant list` shows them")
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		keys, err := store.Keys(ctx, tenant)
		if err != nil {
			return err
		}
		return printKeys(c, keys)
	})
}

// printKeys shows keys as a table, without their secrets.
func printKeys(c *console, keys []tenants.Key) error {
	table := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tNAME\tBEGINS\tSCOPES\tSTATE\tEXPIRES\tLAST USED\tREPLACES")
	for _, k := range keys {
		scopes := make([]string, 0, len(k.Scopes))
		for _, scope := range k.Scopes {
			scopes = append(scopes, string(scope))
		}
		replaces := "-"
		if k.Succeeds != (tenants.KeyID{}) {
			replaces = k.Succeeds.String()
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s…\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, k.Hint, strings.Join(scopes, ","),
			keyState(k, time.Now()), dateOrNever(k.ExpiresAt), dateOrNever(k.LastUsedAt), replaces)
	}
	return table.Flush()
}

func keyState(k tenants.Key, now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "revoked"
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return "expired"
	}
	return "live"
}

func dateOrNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.DateTime)
}

type keyRevokeCommand struct {
	Tenant     string `arg:"" help:"The tenant's id."`
	Key        string `arg:"" help:"The key's id, from key list."`
	Successors bool   `help:"Revoke all that rotation made out of the key as well: what to do when it leaked."`
}

// Run implements the command.
func (cmd *keyRevokeCommand) Run(ctx context.Context, c *console) error {
	tenant, tenantErr := tenants.ParseTenantID(cmd.Tenant)
	key, keyErr := tenants.ParseKeyID(cmd.Key)
	if tenantErr != nil || keyErr != nil {
		return errors.New("name a tenant's id and a key's id; `server key list` shows them")
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		revoke := store.RevokeKey
		if cmd.Successors {
			revoke = store.RevokeKeyAndSuccessors
		}
		successors, err := revoke(ctx, c.by, tenant, key)
		if err != nil {
			return forPeople(err)
		}
		c.printf("%s is revoked.\n", key)
		if cmd.Successors {
			for _, k := range successors {
				c.printf("%s is revoked: it goes back to the first by rotation.\n", k.ID)
			}
			return nil
		}
		return cmd.warn(c, successors)
	})
}

// warn shows what rotation made out of a revoked key and is still live.
func (cmd *keyRevokeCommand) warn(c *console, live []tenants.Key) error {
	if len(live) == 0 {
		return nil
	}
	c.printf("\nStill live are the keys that rotation made out of it:\n\n")
	if err := printKeys(c, live); err != nil {
		return err
	}
	c.printf("\nIf %s leaked, whoever found it may have made them. Ask the partner which are theirs, and revoke the others, or all:\n\n"+
		"  server key revoke %s %s --successors\n\nThen make the partner a new one with `server key create %s`.\n",
		cmd.Key, cmd.Tenant, cmd.Key, cmd.Tenant)
	return nil
}
