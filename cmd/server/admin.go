package main

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// adminCommand is the group of commands about admins.
type adminCommand struct {
	Create adminCreateCommand `cmd:"" help:"Create an admin of the dashboard and print a password, once."`
	Reset  adminResetCommand  `cmd:"" help:"Give an admin a new password and end their sessions."`
}

type adminCreateCommand struct {
	Email string `arg:"" help:"The admin's email address."`
}

// Run implements the command.
func (cmd *adminCreateCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		if _, _, err := store.AdminByEmail(ctx, cmd.Email); err == nil {
			return errors.New("there is an admin with that address; `server admin reset` gives a new password")
		} else if fault.KindOf(err) != fault.NotFound {
			return err
		}
		return setPassword(ctx, c, store, cmd.Email)
	})
}

type adminResetCommand struct {
	Email string `arg:"" help:"The admin's email address."`
}

// Run implements the command.
func (cmd *adminResetCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		if _, _, err := store.AdminByEmail(ctx, cmd.Email); err != nil {
			return forPeople(err)
		}
		return setPassword(ctx, c, store, cmd.Email)
	})
}

func setPassword(ctx context.Context, c *console, store *tenants.Store, email string) error {
	password := rand.Text()
	hash, err := admin.HashPassword(password)
	if err != nil {
		return err
	}
	if _, err := store.SetAdmin(ctx, c.by, email, hash); err != nil {
		return forPeople(err)
	}
	c.printf("%s\n", password)
	return nil
}
