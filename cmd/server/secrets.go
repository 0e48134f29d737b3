package main

import (
	"github.com/connect-prisma/server/internal/sealing"
)

// secretsCommand is the group of commands about the service's own secrets.
type secretsCommand struct {
	Generate secretsGenerateCommand `cmd:"" help:"Print a new COOKIE_KEYS and TOKEN_KEYSET."`
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
