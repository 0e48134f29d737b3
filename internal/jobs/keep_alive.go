package jobs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// renewAgain is when a connection that could not be kept alive is tried again: its
	// refresh token has weeks left.
	renewAgain = 6 * time.Hour
	// settleAgain is the same for one whose fate is open.
	settleAgain = 15 * time.Minute
	// troubleEnds is how many failures end a tenant's part of a run: it may be its OAuth
	// client that is ill and not its connections.
	troubleEnds = 3
	// keepAliveTimeout bounds a run. What is left is the next run's.
	keepAliveTimeout = 10 * time.Minute
)

// KeepAliveStore finds connections that nobody calls; *tenants.Store implements it.
type KeepAliveStore interface {
	UnusedConnections(ctx context.Context, renewAfter time.Duration, skip []tenants.TenantID) ([]tenants.Tended, error)
	BeginTending(ctx context.Context, d tenants.Tended, putOff time.Duration) (bool, error)
	PrismaConnection(tenant tenants.TenantID, id tenants.ConnectionID) prisma.Connection
}

// Renewer renews token pairs by the rules of every call; *prisma.Refresher implements it.
type Renewer interface {
	AccessToken(ctx context.Context, conn prisma.Connection) (prisma.Tokens, error)
	State() prisma.RefresherState
}

// Checker looks at a connection at Prisma; *oauthflow.Flow implements it.
type Checker interface {
	Check(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, error)
}

// KeepAliveConfig is what a KeepAlive rests on. The first three are required.
type KeepAliveConfig struct {
	Store   KeepAliveStore
	Renewer Renewer
	Checker Checker

	// After is how long a pair lies unused until it is exchanged, give or take 5 days
	// or a twelfth of it; a refresh token dies after 90 days. Default 60 days.
	After time.Duration

	// Every is how often unused connections are looked for. Default 5 min.
	Every time.Duration

	// Logger gets a record of each run that did something or had to stop. Default: none.
	Logger *slog.Logger
}

// KeepAlive looks after the connections that nobody calls: a refresh token that is not
// used dies of age, and a connection whose fate is open would otherwise be found broken
// by its user. It takes no short cut: everything goes through the Renewer, and what has
// an access token that still works is left alone.
type KeepAlive struct{ cfg KeepAliveConfig }

// NewKeepAlive returns a KeepAlive; Run makes one run.
func NewKeepAlive(cfg KeepAliveConfig) *KeepAlive {
	cfg.After = cmp.Or(cfg.After, 60*24*time.Hour)
	cfg.Every = cmp.Or(cfg.Every, 5*time.Minute)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return &KeepAlive{cfg: cfg}
}

// KeepAliveResult is what a run came to.
type KeepAliveResult struct {
	Renewed int // refresh tokens exchanged because of their age
	Settled int // connections whose fate is known now
	Failed  int // tried, and to be tried again
}

// Run tends unused connections, tenants in turn, until there is none left; a tenant
// with several that could not be helped is left to the next run. It does nothing while
// this process ends, or would put off what it can't renew any more, and while the token
// endpoint is left alone. Once it may be probed again it goes on: where nobody
// calls at all, nobody else would find out that the endpoint is well.
func (k *KeepAlive) Run(ctx context.Context) (KeepAliveResult, error) {
	var result KeepAliveResult
	failures := make(map[tenants.TenantID]int)
	var skip []tenants.TenantID
	for {
		list, err := k.cfg.Store.UnusedConnections(ctx, k.cfg.After, skip)
		if err != nil || len(list) == 0 {
			return result, err
		}
		for _, d := range list {
			state := k.cfg.Renewer.State()
			if ctx.Err() != nil || state.Draining || state.Breaker == prisma.BreakerOpen {
				return result, ctx.Err()
			}
			if failures[d.Tenant] >= troubleEnds {
				continue
			}
			begun, err := k.cfg.Store.BeginTending(ctx, d, putOff(d.Needs))
			if err != nil {
				return result, err
			}
			if !begun {
				continue // another run has it, or it is gone
			}
			if err := k.tend(ctx, d, &result); err == nil {
				continue
			} else if failures[d.Tenant]++; failures[d.Tenant] == troubleEnds {
				skip = append(skip, d.Tenant)
				k.cfg.Logger.WarnContext(ctx, "a tenant's unused connections can't be tended",
					slog.String("tenant", d.Tenant.String()), slog.Any("error", err))
			}
		}
	}
}

func putOff(needs tenants.Tending) time.Duration {
	if needs == tenants.TendRenew {
		return renewAgain
	}
	return settleAgain
}

// tend gives one connection what it needs. That it turned out to need a reconnect is no
// failure: it is known now.
func (k *KeepAlive) tend(ctx context.Context, d tenants.Tended, result *KeepAliveResult) error {
	var err error
	if d.Needs == tenants.TendConfirm {
		_, err = k.cfg.Checker.Check(ctx, tenants.System(), d.Tenant, d.Connection)
	} else {
		_, err = k.cfg.Renewer.AccessToken(ctx, k.cfg.Store.PrismaConnection(d.Tenant, d.Connection))
	}
	switch kind := fault.KindOf(err); {
	case kind == fault.ReconnectRequired || kind == fault.NotFound || err == nil && d.Needs != tenants.TendRenew:
		result.Settled++
	case err == nil:
		result.Renewed++
	default:
		result.Failed++
		return err
	}
	return nil
}

// keepAlive runs a KeepAlive as a job.
type keepAlive struct {
	river.WorkerDefaults[tenants.KeepAliveJob]

	*KeepAlive
}

// Timeout implements river.Worker.
func (*keepAlive) Timeout(*river.Job[tenants.KeepAliveJob]) time.Duration { return keepAliveTimeout }

// Work implements river.Worker. Being stopped in the middle is no failure: each
// connection is on its own, and the next run is near.
func (w *keepAlive) Work(ctx context.Context, _ *river.Job[tenants.KeepAliveJob]) error {
	result, err := w.Run(ctx)
	if result != (KeepAliveResult{}) {
		w.cfg.Logger.InfoContext(ctx, "unused connections tended", slog.Int("renewed", result.Renewed),
			slog.Int("settled", result.Settled), slog.Int("failed", result.Failed))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
