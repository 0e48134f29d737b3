package jobs_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/jobs"
	"github.com/connect-prisma/server/internal/tenants"
)

// ledgerKeeper is a store that tells what its jobs have done with the ledger.
type ledgerKeeper struct {
	*tenants.Store

	made   chan []tenants.LedgerCheckpoint
	folded chan time.Duration
}

func (k *ledgerKeeper) CheckpointLedger(ctx context.Context, retention time.Duration) ([]tenants.LedgerCheckpoint, error) {
	made, err := k.Store.CheckpointLedger(ctx, retention)
	if len(made) > 0 {
		k.made <- made
	}
	return made, err
}

func (k *ledgerKeeper) FoldLedger(ctx context.Context, retention time.Duration) (int64, error) {
	n, err := k.Store.FoldLedger(ctx, retention)
	select {
	case k.folded <- retention:
	default:
	}
	return n, err
}

// The ledger is checkpointed and folded again and again, and the log is the witness of
// each checkpoint.
func TestLedgerIsCheckpointed(t *testing.T) {
	t.Parallel()
	s := openService(t)
	s.connect(t, "first")
	var log lockedBuffer
	keeper := &ledgerKeeper{Store: s.Store, made: make(chan []tenants.LedgerCheckpoint, 10), folded: make(chan time.Duration, 10)}
	runner, err := jobs.New(jobs.Config{
		Pool: s.db.Pool, Store: keeper, CheckpointEvery: 100 * time.Millisecond,
		Logger:     slog.New(slog.NewTextHandler(&log, nil)),
		Workspaces: workspaces(func(context.Context, tenants.TenantID, tenants.ConnectionID) error { return nil }),
	})
	ok(t, err)
	ok(t, runner.Start(t.Context()))
	receive(t, "the first checkpoint", keeper.made)
	s.connect(t, "second")
	second := receive(t, "another checkpoint", keeper.made)
	if second[0].Number != 2 || second[0].Entries < 1 || second[0].Entries > 2 { // the connection, its tenant's audit log, or both
		t.Errorf("the second checkpoint is %+v", second[0])
	}
	if retention := receive(t, "a fold", keeper.folded); retention != 90*24*time.Hour {
		t.Errorf("rows are folded after %s", retention)
	}
	ok(t, runner.Stop(t.Context()))
	witness := fmt.Sprintf("number=2 chains=%d head=%s", second[0].Entries, hex.EncodeToString(second[0].Head))
	if !strings.Contains(log.String(), witness) {
		t.Errorf("the log has no witness:\n%s", log.String())
	}
}
