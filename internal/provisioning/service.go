package provisioning

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// Store keeps operations and tokens; *tenants.Store is one.
type Store interface {
	PrismaConnection(tenant tenants.TenantID, id tenants.ConnectionID) prisma.Connection
	ServiceToken(ctx context.Context, id tenants.TenantID) (string, error)

	BeginOperation(ctx context.Context, tenant tenants.TenantID, in tenants.NewOperation) (tenants.Operation, error)
	HasOperation(ctx context.Context, tenant tenants.TenantID, kind tenants.OperationKind, key string, requestHash [32]byte) (bool, error)
	RenewOperation(ctx context.Context, op tenants.Operation, lease time.Duration) error
	NoteOperation(ctx context.Context, op tenants.Operation, request json.RawMessage) error
	EndOperation(ctx context.Context, op tenants.Operation, end tenants.OperationEnd) error
	FinishOperation(ctx context.Context, by tenants.Actor, op tenants.Operation, made tenants.Made) (tenants.Operation, error)

	ShortenWaits(ctx context.Context, lease time.Duration) error
	LandingsToLookFor(ctx context.Context) ([]tenants.Landing, error)
	BeginLook(ctx context.Context, at tenants.Landing, lease time.Duration) (look tenants.Look, due bool, err error)
	EndLook(ctx context.Context, look tenants.Look, seen bool) error
	Landed(ctx context.Context, by tenants.Actor, look tenants.Look, made tenants.Made) error
	Condemn(ctx context.Context, op tenants.Operation, ids []string) (bool, error)
	UsedElsewhere(ctx context.Context, op tenants.Operation, id string) (bool, error)
	ForgetUses(ctx context.Context) (int, error)

	ProjectUpdated(ctx context.Context, by tenants.Actor, c tenants.ResourceChange) error
	DatabaseUpdated(ctx context.Context, by tenants.Actor, c tenants.ResourceChange) error

	BeginDeletion(ctx context.Context, c tenants.ResourceChange) (tenants.Deletion, error)
	CancelDeletion(ctx context.Context, d tenants.Deletion) error
	FinishDeletion(ctx context.Context, by tenants.Actor, gone tenants.ResourceChange) (told bool, err error)
	DeletionsInDoubt(ctx context.Context) ([]tenants.Deletion, error)
	ForgetDeletions(ctx context.Context) (int, error)
	ForgetString(ctx context.Context, tenant tenants.TenantID, credentials string) error

	BeginCall(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error)
	EndCall(ctx context.Context, by tenants.Actor, call tenants.AuditedCall, result tenants.CallResult) error
}

// Caller makes calls with a connection's access token; *prisma.Caller is one.
type Caller interface {
	Call(ctx context.Context, conn prisma.Connection, do func(ctx context.Context, client *prisma.Client) error) error
}

// Config is what a Service rests on.
type Config struct {
	Store  Store          // required
	Caller Caller         // required
	Client *prisma.Client // for calls with a tenant's service token; required
	Now    func() time.Time
	Logger *slog.Logger // default: none

	// Lease is how long an operation counts as running when its process has died.
	// While it lives, the lease is renewed. Default 30 s.
	Lease time.Duration

	// Deadline bounds a creating call with all its look-ups. Default 60 s.
	Deadline time.Duration

	// SaveFor is how long the end of an operation is tried to be saved: what Prisma made is
	// known to nobody else. Default 20 s.
	SaveFor time.Duration

	// Patience are the pauses before each look-up of what may have been made.
	// Default 0, 0.5, 1 and 2 s.
	Patience []time.Duration
}

// Service provisions. It is safe for concurrent use.
type Service struct {
	store    Store
	caller   Caller
	client   *prisma.Client
	now      func() time.Time
	logger   *slog.Logger
	lease    time.Duration
	deadline time.Duration
	saveFor  time.Duration
	patience []time.Duration
	regions  *regionCache
}

// New returns a Service; an incomplete configuration is an error.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Caller == nil || cfg.Client == nil || cfg.Now == nil {
		return nil, errors.New("provisioning: a store, a caller, a client and a clock are needed")
	}
	s := &Service{
		store: cfg.Store, caller: cfg.Caller, client: cfg.Client, now: cfg.Now,
		logger:   cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		lease:    cmp.Or(cfg.Lease, 30*time.Second),
		deadline: cmp.Or(cfg.Deadline, time.Minute),
		saveFor:  cmp.Or(cfg.SaveFor, 20*time.Second),
		patience: cfg.Patience,
		regions:  newRegionCache(),
	}
	if len(s.patience) == 0 {
		s.patience = []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second}
	}
	return s, nil
}

// scope is the connection that a call acts through.
type scope struct {
	tenant     tenants.TenantID
	connection tenants.ConnectionID
}

// call makes one API call through a connection and returns its answer.
//
// Errors are those of prisma.Caller: fault.NotFound and fault.ReconnectRequired
// about the connection, and those of prisma.FaultOf about the call.
func call[T any](ctx context.Context, s *Service, at scope,
	do func(ctx context.Context, client *prisma.Client) (T, error),
) (T, error) {
	var answer T
	err := s.caller.Call(ctx, s.store.PrismaConnection(at.tenant, at.connection), func(ctx context.Context, client *prisma.Client) error {
		var err error
		answer, err = do(ctx, client)
		return err
	})
	return answer, err
}

// changing makes one call that changes something at Prisma. It is the only place from
// which such calls go: the intent is in the audit log before anything is sent, and how
// it ended afterwards. Errors: those of call.
func changing[T any](ctx context.Context, s *Service, by tenants.Actor, at scope, what tenants.OutgoingCall,
	do func(ctx context.Context, client *prisma.Client) (T, error),
) (T, error) {
	what.Connection = at.connection
	begun, err := s.store.BeginCall(ctx, by, at.tenant, what)
	if err != nil {
		var none T
		return none, fmt.Errorf("write the intent of a call: %w", err)
	}
	answer, err := call(ctx, s, at, do)
	if ended := s.store.EndCall(ctx, by, begun, tenants.ResultOf(err)); ended != nil {
		s.logger.ErrorContext(ctx, "how a call to Prisma ended is not in the audit log",
			slog.String("operation", what.Operation), slog.String("error", ended.Error()))
	}
	return answer, err
}
