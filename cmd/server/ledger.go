package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/tenants"
)

// ledgerCommand is the group of commands about the refresh ledger and the audit log.
type ledgerCommand struct {
	Verify ledgerVerifyCommand `cmd:"" help:"Prove that no refresh token was presented twice, and that no row of the refresh ledger and the audit log was touched."`

	Acknowledge ledgerAcknowledgeCommand `cmd:"" help:"Say that findings of verify have been looked into, so that it is about others from then on."`
}

type ledgerVerifyCommand struct {
	Tenant     string `help:"Only this tenant's connections and audit log."`
	Connection string `help:"Only this connection, and no audit log."`
	Witness    string `placeholder:"NUMBER:HEAD" help:"A checkpoint's number and head as the log shows them: it must still be there."`
}

// Run implements the command. It prints one line for each finding, which begins with its id, and one that sums
// up, and fails if there was a finding that nobody acknowledged.
func (cmd *ledgerVerifyCommand) Run(ctx context.Context, c *console) error {
	check, err := cmd.check()
	if err != nil {
		return err
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		began := time.Now()
		summary, err := store.VerifyLedger(ctx, check, func(f tenants.LedgerFinding) { printFinding(c, f) })
		if err != nil {
			return err
		}
		c.printf("%d connections, %d rows, %d folds, %d attempts (%d late retries, %d without an end, %d saved and not written yet), "+
			"%d checkpoints: %d findings in %s.\n", summary.Connections, summary.Rows, summary.Folds, summary.Attempts,
			summary.LateRetries, summary.Open, summary.Pending, summary.Checkpoints, summary.Findings,
			time.Since(began).Round(time.Millisecond))
		if summary.Adopted > 0 {
			c.printf("%d ledgers begin later than their connection.\n", summary.Adopted)
		}
		if summary.Acknowledged > 0 {
			c.printf("%d more findings are acknowledged.\n", summary.Acknowledged)
		}
		if cmd.Connection == "" {
			a := summary.Audit
			c.printf("%d audit logs, %d rows (%d of versions without MACs, covered by later rows; %d more, not covered yet).\n",
				a.Chains, a.Rows, a.Covered, a.Uncovered)
			if a.Unsealed > 0 {
				c.printf("%d audit logs end with a row of a version that seals no end: rows since their last checkpoint could be cut off unseen.\n",
					a.Unsealed)
			}
		}
		if summary.LastNumber > 0 {
			c.printf("The newest checkpoint is %d:%s\n", summary.LastNumber, hex.EncodeToString(summary.LastHead))
		}
		if summary.Findings > 0 {
			return fmt.Errorf("the ledger does not prove itself: %d findings", summary.Findings)
		}
		return nil
	})
}

func (cmd *ledgerVerifyCommand) check() (tenants.LedgerCheck, error) {
	var check tenants.LedgerCheck
	var err error
	if cmd.Tenant != "" {
		if check.Tenant, err = tenants.ParseTenantID(cmd.Tenant); err != nil {
			return check, errors.New("that is no tenant id; `server tenant list` shows them")
		}
	}
	if cmd.Connection != "" {
		if check.Connection, err = tenants.ParseConnectionID(cmd.Connection); err != nil {
			return check, errors.New("that is no connection id: they begin with cnx_")
		}
	}
	if cmd.Witness != "" {
		number, head, _ := strings.Cut(cmd.Witness, ":")
		n, numberErr := strconv.ParseInt(number, 10, 64)
		raw, headErr := hex.DecodeString(head)
		if numberErr != nil || headErr != nil || n < 1 || len(raw) != 32 {
			return check, errors.New("--witness takes a checkpoint's number, a colon and its head: 64 hexadecimal digits")
		}
		check.WitnessNumber, check.WitnessHead = n, raw
	}
	return check, nil
}

func printFinding(c *console, f tenants.LedgerFinding) {
	if known := f.Acknowledged; known != nil {
		c.printf("%s %s (acknowledged by %s on %s: %s)\n", f.ID(), describeFinding(f), known.By, known.At.UTC().Format(time.DateOnly), known.Reason)
		return
	}
	c.printf("%s %s\n", f.ID(), describeFinding(f))
}

func describeFinding(f tenants.LedgerFinding) string {
	switch {
	case f.Log == tenants.AdminLog:
		return describeRow("admin log", f)
	case f.Log == tenants.AuditLog:
		return describeRow("audit log of "+f.Tenant.String(), f)
	case f.Connection.UUID == uuid.Nil:
		return fmt.Sprintf("checkpoint %d: %s", f.Checkpoint, f.What)
	}
	return describeRow(fmt.Sprintf("%s of %s", f.Connection, f.Tenant), f)
}

func describeRow(where string, f tenants.LedgerFinding) string {
	if f.Sequence == 0 {
		return fmt.Sprintf("%s: %s", where, f.What)
	}
	return fmt.Sprintf("%s, row %d: %s", where, f.Sequence, f.What)
}
