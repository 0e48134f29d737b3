package tenants

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prisma"
)

// OutgoingCall is one request to Prisma that changes something there. Token requests
// are none: the refresh ledger has those.
type OutgoingCall struct {
	Connection  ConnectionID // whose token it is made with; zero: the tenant's service token
	Operation   string       // of the Management API, such as "createProject" or "DELETE /v1/databases/{databaseId}"; no values
	Target      string       // Prisma's id of what it is about; "": there is none yet
	OperationID string       // the operation (op_…) that it belongs to; "": none
	Uses        []string     // Prisma's ids of what it uses or changes, so that nobody takes it for an unused double
}

// How an outgoing call can end.
const (
	CallDone    = "done"     // Prisma answered that it did
	CallRefused = "refused"  // Prisma answered that it did not
	CallNotSent = "not_sent" // nothing left this process
	CallUnknown = "unknown"  // it may have happened
)

// CallResult is how an outgoing call ended.
type CallResult struct {
	Outcome string // one of the Call constants
	Status  int    // of Prisma's HTTP answer; 0: there was none
}

// AuditedCall is an outgoing call whose intent is in the audit log.
type AuditedCall struct {
	OutgoingCall

	Tenant   TenantID
	Sequence int64 // of its audit row
}

const (
	auditCallBegun = "prisma_call.begun"
	auditCallEnded = "prisma_call.ended"
	// callEndsWithin bounds EndCall, which does not end with its caller's context.
	callEndsWithin = 10 * time.Second
)

// BeginCall writes that a call is about to be made, and notes what it uses. It is
// committed when BeginCall returns; on an error the call must not be made: fault.Conflict
// when something that it uses is being deleted as a double.
func (s *Store) BeginCall(ctx context.Context, by Actor, tenant TenantID, call OutgoingCall) (AuditedCall, error) {
	begun := AuditedCall{OutgoingCall: call, Tenant: tenant}
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		err := s.use(ctx, tx, tenant, call)
		if err != nil {
			return err
		}
		begun.Sequence, err = s.recordAll(ctx, tx, tenant, by, []change{{action: auditCallBegun, target: call.Target, data: call.details()}})
		return err
	})
	return begun, err
}

// EndCall writes how a call ended, also if ctx has ended meanwhile. An error changes
// nothing about the call: its intent stays without an end, as after a crash, and the
// caller has nothing better to do than to log it.
func (s *Store) EndCall(ctx context.Context, by Actor, call AuditedCall, result CallResult) error {
	if !slices.Contains([]string{CallDone, CallRefused, CallNotSent, CallUnknown}, result.Outcome) {
		return fmt.Errorf("a call can't end as %q", result.Outcome)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callEndsWithin)
	defer cancel()
	data := call.details()
	data["begun"], data["outcome"] = call.Sequence, result.Outcome
	if result.Status != 0 {
		data["status"] = result.Status
	}
	return s.inTenant(ctx, call.Tenant, func(tx pgx.Tx) error {
		return s.record(ctx, tx, call.Tenant, by, change{action: auditCallEnded, target: call.Target, data: data})
	})
}

func (c OutgoingCall) details() map[string]any {
	data := map[string]any{"operation": c.Operation}
	if c.Connection != (ConnectionID{}) {
		data["connectionId"] = c.Connection.String()
	}
	if c.OperationID != "" {
		data["operationId"] = c.OperationID
	}
	return data
}

// ResultOf reads the error of a changing call that package prisma made.
func ResultOf(err error) CallResult {
	if err == nil {
		return CallResult{Outcome: CallDone}
	}
	if answer, ok := errors.AsType[*prisma.APIError](err); ok {
		switch status := answer.Status; {
		case status == http.StatusRequestTimeout, status < 400, status >= 500:
			return CallResult{Outcome: CallUnknown, Status: status}
		default:
			return CallResult{Outcome: CallRefused, Status: status}
		}
	}
	if failed, ok := errors.AsType[*prisma.FetchError](err); ok && failed.Sent {
		return CallResult{Outcome: CallUnknown}
	}
	return CallResult{Outcome: CallNotSent} // also when no token could be had
}
