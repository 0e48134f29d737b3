package main

import (
	"context"
	"fmt"

	"github.com/connect-prisma/server/internal/tenants"
)

type ledgerAcknowledgeCommand struct {
	Findings []string `arg:"" help:"The findings' ids, from ledger verify."`
	Reason   string   `required:"" help:"What people found out about them."`
}

// Run implements the command. It looks for the findings itself, so that nothing is
// acknowledged but what is there, and what was acknowledged is written down as it reads.
func (cmd *ledgerAcknowledgeCommand) Run(ctx context.Context, c *console) error {
	return withStore(ctx, c, func(store *tenants.Store) error {
		found := map[string]tenants.LedgerFinding{}
		_, err := store.VerifyLedger(ctx, tenants.LedgerCheck{}, func(f tenants.LedgerFinding) { found[f.ID()] = f })
		if err != nil {
			return err
		}
		for _, id := range cmd.Findings {
			if _, there := found[id]; !there {
				return fmt.Errorf("nothing is acknowledged: there is no finding %q; `server ledger verify` shows their ids", id)
			}
		}
		for _, id := range cmd.Findings {
			f := found[id]
			if f.Acknowledged != nil {
				c.printf("%s is acknowledged already.\n", id)
				continue
			}
			if err := store.AcknowledgeFinding(ctx, c.by, f, describeFinding(f), cmd.Reason); err != nil {
				return forPeople(err)
			}
			c.printf("%s is acknowledged.\n", id)
		}
		return nil
	})
}
