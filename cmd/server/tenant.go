package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// tenantCommand is the group of commands about tenants.
type tenantCommand struct {
	Create tenantCreateCommand `cmd:"" help:"Create a tenant."`
	List   tenantListCommand   `cmd:"" help:"List the tenants."`
	Set    tenantSetCommand    `cmd:"" help:"Change a tenant."`
}

type tenantCreateCommand struct {
	Name              string   `required:"" help:"The partner's name, shown to its users."`
	ReturnURL         []string `name:"return-url" help:"A registered return URL; may be given several times."`
	ClientID          string   `help:"The tenant's OAuth client at Prisma."`
	ClientSecretStdin bool     `help:"Read the client's secret from standard input, its first line. Without it the client is public."`
	SharedClient      bool     `help:"Use the installation's client, PRISMA_CLIENT_ID, instead of one of its own."`
	Completion        string   `enum:"code,automatic" default:"code" help:"How a connect session ends: code (the partner's backend completes it) or automatic."`
	RestartURL        string   `help:"Where expired and failed pages lead."`

	limitFlags
}

// limitFlags are a tenant's limits, of create and set.
type limitFlags struct {
	RequestsPerSecond *int `help:"API calls a second, all replicas together; 0 is the default, 50."`
	Burst             *int `help:"API calls at once after a pause; 0 is the default, twice the calls a second."`
	SessionsPerSecond *int `help:"Connect sessions made a second; 0 is the default, 10."`
	CreatesPerSecond  *int `help:"Projects, databases and credentials made a second; 0 is the default, 2."`
	CallsAtOnce       *int `help:"API calls under way at the same time; 0 is the default, 20."`
}

// limits are those of a tenant that is made: what is not given is the default.
func (f limitFlags) limits() tenants.Limits {
	or := func(n *int) int {
		if n == nil {
			return 0
		}
		return *n
	}
	return tenants.Limits{
		Requests: or(f.RequestsPerSecond), Burst: or(f.Burst), Sessions: or(f.SessionsPerSecond),
		Creates: or(f.CreatesPerSecond), AtOnce: or(f.CallsAtOnce),
	}
}

func (f limitFlags) change() tenants.LimitsChange {
	return tenants.LimitsChange{
		Requests: f.RequestsPerSecond, Burst: f.Burst, Sessions: f.SessionsPerSecond,
		Creates: f.CreatesPerSecond, AtOnce: f.CallsAtOnce,
	}
}

// Run implements the command.
func (cmd *tenantCreateCommand) Run(ctx context.Context, c *console) error {
	client := tenants.OAuthClient{ID: cmd.ClientID}
	if cmd.ClientSecretStdin {
		secret, err := c.readLine()
		if err != nil {
			return err
		}
		client.Secret = secret
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		tenant, err := store.CreateTenant(ctx, c.by, tenants.TenantInput{
			Name: cmd.Name, Completion: tenants.Completion(cmd.Completion), Client: client, SharedClient: cmd.SharedClient,
			RestartURL: cmd.RestartURL, ReturnURLs: cmd.ReturnURL, Limits: cmd.limits(),
		})
		if err != nil {
			return forPeople(err)
		}
		c.printf("%s\n", tenant.ID)
		return nil
	})
}

type tenantListCommand struct{}

// Run implements the command.
func (*tenantListCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		all, err := store.Tenants(ctx)
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "ID\tNAME\tSTATUS\tCLIENT\tCALLS/S\tCREATED")
		for _, t := range all {
			status, client := "active", t.OAuthClientID
			if t.Paused {
				status = "paused"
			}
			if t.SharedClient {
				client = "(shared)"
			}
			if t.NextSecret {
				client += " (next secret stored)"
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", t.ID, t.Name, status, client, t.Limits.Requests, t.CreatedAt.UTC().Format(time.DateOnly))
		}
		return table.Flush()
	})
}

type tenantSetCommand struct {
	Tenant            string   `arg:"" help:"The tenant's id."`
	Name              *string  `help:"A new name."`
	ReturnURL         []string `name:"return-url" help:"The registered return URLs, replacing all; may be given several times."`
	ClientID          *string  `help:"Another OAuth client."`
	ClientSecretStdin bool     `help:"Read the client's secret from standard input, its first line."`
	NextSecretStdin   bool     `name:"next-client-secret-stdin" help:"Read the secret that is about to replace the client's from standard input, the next line; an empty one removes it. It becomes the client's secret when Prisma takes it and not the present one."`
	ServiceTokenStdin bool     `help:"Read the service token of the tenant's own workspace from standard input, the next line; an empty one removes it."`
	Completion        *string  `enum:"code,automatic" help:"How a connect session ends."`
	RestartURL        *string  `help:"Where expired and failed pages lead; an empty one removes it."`
	Pause             bool     `xor:"pause" help:"Refuse the tenant's keys and links until it is resumed."`
	Resume            bool     `xor:"pause" help:"End a pause."`

	limitFlags
}

// Run implements the command.
func (cmd *tenantSetCommand) Run(ctx context.Context, c *console) error {
	id, err := tenants.ParseTenantID(cmd.Tenant)
	if err != nil {
		return errors.New("that is no tenant id; `server tenant list` shows them")
	}
	change := tenants.TenantChange{
		Name: cmd.Name, RestartURL: cmd.RestartURL, ReturnURLs: cmd.ReturnURL,
		Completion: (*tenants.Completion)(cmd.Completion), Limits: cmd.change(),
	}
	if cmd.Pause || cmd.Resume {
		change.Paused = &cmd.Pause
	}
	if cmd.ClientID != nil {
		change.Client = &tenants.OAuthClient{ID: *cmd.ClientID}
	}
	if cmd.ClientSecretStdin {
		if change.Client == nil {
			return errors.New("name the client with --client-id too: a secret belongs to one")
		}
		if change.Client.Secret, err = c.readLine(); err != nil {
			return err
		}
	}
	for _, secret := range []struct {
		asked bool
		to    **string
	}{{cmd.NextSecretStdin, &change.NextSecret}, {cmd.ServiceTokenStdin, &change.ServiceToken}} {
		if !secret.asked {
			continue
		}
		line, err := c.readLine()
		if err != nil {
			return err
		}
		*secret.to = &line
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		if _, err := store.UpdateTenant(ctx, c.by, id, change); err != nil {
			return forPeople(err)
		}
		c.printf("%s\n", id)
		return nil
	})
}

// readLine reads the next line of standard input: secrets don't belong on a
// command line, where other users of the machine see them.
func (c *console) readLine() (string, error) {
	reader, ok := c.stdin.(*bufio.Reader)
	if !ok {
		reader = bufio.NewReader(c.stdin)
		c.stdin = reader
	}
	line, err := reader.ReadString('\n')
	if err != nil && line == "" {
		return "", errors.New("standard input ended before the secret")
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// forPeople says which values of a command are refused, and why.
func forPeople(err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	parts := []string{e.Detail}
	for _, f := range e.Fields {
		parts = append(parts, strings.TrimPrefix(f.Pointer, "/")+": "+f.Detail)
	}
	return errors.New(strings.Join(parts, " "))
}
