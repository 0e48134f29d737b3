package httpapi

import (
	"context"
	"net/netip"
	"net/url"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/tenants"
)

// ListAuditEntries serves GET /v1/audit?after=&action=&target=&actor=&from=&to=&cursor=&limit=.
func (h handlers) ListAuditEntries(ctx context.Context, r contract.ListAuditEntriesRequestObject,
) (contract.ListAuditEntriesResponseObject, error) {
	filter := tenants.AuditFilter{
		After: deref(r.Params.After), Action: deref(r.Params.Action), Target: deref(r.Params.Target), Actor: deref(r.Params.Actor),
		From: deref(r.Params.From), To: deref(r.Params.To), Limit: limitOf(r.Params.Limit),
	}
	if r.Params.To != nil && !filter.From.Before(filter.To) {
		return nil, fault.New(fault.InvalidRequest, "A query parameter can't be used.", nil).
			WithField("to", "Use a time that is after from.")
	}
	// A cursor holds for the list with these filters alone; it is never before after.
	list := url.Values{
		"action": {filter.Action}, "target": {filter.Target}, "actor": {filter.Actor},
		"from": {filter.From.UTC().Format(time.RFC3339Nano)}, "to": {filter.To.UTC().Format(time.RFC3339Nano)},
	}.Encode()
	last, err := h.cfg.Store.ParseAuditCursor(tenantOf(ctx), list, deref(r.Params.Cursor))
	if err != nil {
		return nil, err
	}
	filter.After = max(filter.After, last)
	found, more, err := h.cfg.Store.AuditEntries(ctx, tenantOf(ctx), filter)
	if err != nil {
		return nil, err
	}
	next := ""
	if more {
		if next, err = h.cfg.Store.AuditCursor(tenantOf(ctx), list, found[len(found)-1].Sequence); err != nil {
			return nil, err
		}
	}
	return contract.ListAuditEntries200JSONResponse{Data: each(found, auditEntry), Pagination: newPagination(next)}, nil
}

func auditEntry(e tenants.AuditEntry) contract.AuditEntry {
	shown := contract.AuditEntry{
		Sequence: e.Sequence, At: e.At.UTC(), Action: e.Action, Target: e.Target, RequestID: e.RequestID,
		IP: addressOrNull(e.IP), Details: e.Details,
	}
	shown.Actor.Type, shown.Actor.ID = string(e.ActorType), e.ActorID
	return shown
}

func addressOrNull(ip *netip.Addr) *string {
	if ip == nil {
		return nil
	}
	return new(ip.String())
}
