package tenants_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// The intent is there before anything is sent, and the end says which intent it ends.
func TestOutgoingCalls(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	c := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	by := tenants.Actor{Type: tenants.ActorAPIKey, ID: "key_x", RequestID: "req_7", IP: netip.MustParseAddr("192.0.2.7")}
	rows := func() []string {
		return list[string](t, s, `SELECT concat_ws(' ', actor_type, actor_id, request_id, host(ip), action, target,
			details->>'operation', details->>'connectionId' = $2, details->>'operationId', details->>'outcome', details->>'status',
			(details->>'begun')::bigint = lag(sequence) OVER (ORDER BY sequence))
			FROM audit_log WHERE tenant_id = $1 AND action LIKE 'prisma_call.%' ORDER BY sequence`, tenant, c.ID.String())
	}
	const who = "api_key key_x req_7 192.0.2.7 "
	ctx, cancel := context.WithCancel(t.Context())
	call, err := s.BeginCall(ctx, by, tenant, tenants.OutgoingCall{
		Connection: c.ID, Operation: "DELETE /v1/databases/{databaseId}", Target: "db_1", OperationID: "op_1",
	})
	ok(t, err)
	want := []string{who + "prisma_call.begun db_1 DELETE /v1/databases/{databaseId} t op_1"}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Fatalf("before the call (-want +got):\n%s", diff)
	}
	cancel() // whoever asked for it is gone; the call was made all the same
	ok(t, s.EndCall(ctx, by, call, tenants.CallResult{Outcome: tenants.CallRefused, Status: 409}))
	want = append(want, who+"prisma_call.ended db_1 DELETE /v1/databases/{databaseId} t op_1 refused 409 t")
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("after the call (-want +got):\n%s", diff)
	}
	if err := s.EndCall(ctx, by, call, tenants.CallResult{Outcome: "fine"}); err == nil {
		t.Error("a call ends in a way that nobody knows")
	}
	if _, err := s.BeginCall(ctx, by, tenant, tenants.OutgoingCall{Operation: "createProject"}); err == nil {
		t.Error("a call begins without its row")
	}
	s.gapless(t, tenant)
}

func TestResultsOfCalls(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want tenants.CallResult
	}{
		"no error":       {nil, tenants.CallResult{Outcome: tenants.CallDone}},
		"a conflict":     {&prisma.APIError{Status: 409}, tenants.CallResult{Outcome: tenants.CallRefused, Status: 409}},
		"too many":       {&prisma.APIError{Status: 429}, tenants.CallResult{Outcome: tenants.CallRefused, Status: 429}},
		"its fault":      {&prisma.APIError{Status: 503}, tenants.CallResult{Outcome: tenants.CallUnknown, Status: 503}},
		"its patience":   {&prisma.APIError{Status: 408}, tenants.CallResult{Outcome: tenants.CallUnknown, Status: 408}},
		"a redirect":     {&prisma.APIError{Status: 302}, tenants.CallResult{Outcome: tenants.CallUnknown, Status: 302}},
		"a cut":          {fmt.Errorf("call: %w", &prisma.FetchError{Sent: true}), tenants.CallResult{Outcome: tenants.CallUnknown}},
		"no connection":  {&prisma.FetchError{}, tenants.CallResult{Outcome: tenants.CallNotSent}},
		"no token to be": {fault.New(fault.ReconnectRequired, "x", nil), tenants.CallResult{Outcome: tenants.CallNotSent}},
	} {
		if got := tenants.ResultOf(tc.err); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}
