package tenants_test

import (
	"context"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// oneShot is an endpoint that hands out the pair "2", and counts.
type oneShot struct{ sent int }

func (o *oneShot) Refresh(context.Context, prisma.OAuthClient, string) (prisma.Grant, error) {
	o.sent++
	return prisma.Grant{Access: "access-2", Refresh: "refresh-2", ExpiresIn: time.Hour, Rotated: true}, nil
}

// A claim whose COMMIT nobody answered sends nothing, and leaves nothing that would be
// suspected: neither a first presentation, nor a late one, which would be spent for it.
func TestARefreshClaimWhoseCommitNobodyAnswered(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			l := openLeased(t)
			want := state{Status: "active", Generation: 1}
			if late {
				ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
				want = state{Status: "suspect", Generation: 1, Intent: true}
			}
			l.db.Advance(t, 2*time.Hour)
			wire := &cutter{}
			storage := l.store(t, tenants.Config{Pool: openPool(t, l.db.AppURL, 2, wire)}).TokensOf(l.owner, l.id)
			stored := l.stored(t)
			wire.arm(1, after, false)
			wire.atMost(1)
			claim, err := storage.Claim(t.Context(), stored)
			if n := wire.disarm(); n != 1 {
				t.Fatalf("%d commits were cut, want 1", n)
			}
			if !postgres.CommitUnknown(err) || !claim.Due {
				t.Errorf("late %t, cut after the COMMIT %t: Claim() = due %t, %v", late, after, claim.Due, err)
			}
			if got := l.state(t).Leased; got != after {
				t.Errorf("late %t, cut after the COMMIT %t: leased = %t", late, after, got)
			}
			ok(t, storage.Settle(t.Context(), claim, prisma.NotSent))
			want.BackOff = after
			l.wantState(t, "given back", want)
			l.proven(t)
		}
	}
}

// The same through a refresher: it settles the claim by itself, and the next call gets a
// token from the first exchange that there is.
func TestARefresherGivesBackWhatItMayHaveClaimed(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.db.Advance(t, 2*time.Hour)
	wire := &cutter{}
	storage := l.store(t, tenants.Config{Pool: openPool(t, l.db.AppURL, 4, wire)}).TokensOf(l.owner, l.id)
	endpoint := &oneShot{}
	r, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: endpoint, Now: clock})
	ok(t, err)
	conn := prisma.Connection{Key: l.id.String(), Storage: storage, Client: func(context.Context) (prisma.OAuthClient, error) {
		return prisma.OAuthClient{ID: "client"}, nil
	}}
	wire.arm(1, true, false)
	wire.atMost(1)
	if _, err := r.AccessToken(t.Context(), conn); !postgres.CommitUnknown(err) {
		t.Errorf("AccessToken() = %v", err)
	}
	if n := wire.disarm(); n != 1 {
		t.Fatalf("%d commits were cut, want 1", n)
	}
	l.wantState(t, "given back", state{Status: "active", Generation: 1, BackOff: true})
	l.db.Advance(t, 6*time.Second)
	if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-2" || endpoint.sent != 1 {
		t.Errorf("AccessToken() = %v, %v after %d exchanges", got, err, endpoint.sent)
	}
}
