package tenants_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// BenchmarkAudit appends audit rows, a transaction each, and beside them in the same run
// inserts the same rows bare: no number, no lock, no MAC, no seal. It reports rows a second
// of both, and how many times as long the chained ones take. 16 writers are on one tenant,
// where each waits for the one before, or on 64 tenants.
//
//	go test ./internal/tenants -run '^$' -bench Audit
func BenchmarkAudit(b *testing.B) {
	for _, count := range []int{1, 64} {
		b.Run(fmt.Sprintf("tenants=%d", count), func(b *testing.B) {
			a := openAuditBench(b, count)
			const block = 256 // the two take turns, so that both see the same machine
			var chained, bare time.Duration
			for done := 0; done < b.N; done += block {
				rows := min(block, b.N-done)
				chained += a.write(b, rows, a.append)
				bare += a.write(b, rows, a.insert)
			}
			b.ReportMetric(float64(b.N)/chained.Seconds(), "chained/s")
			b.ReportMetric(float64(b.N)/bare.Seconds(), "bare/s")
			b.ReportMetric(chained.Seconds()/bare.Seconds(), "chained/bare")
			b.ReportMetric(0, "ns/op") // of both together: nothing to look at
		})
	}
}

type auditBench struct {
	db     *pgtest.Database
	store  *tenants.Store
	owners []tenants.TenantID // of the chained rows
	bare   []tenants.TenantID // of the others
	next   atomic.Int64
}

func openAuditBench(b *testing.B, count int) *auditBench {
	b.Helper()
	text, err := sealing.Generate()
	if err != nil {
		b.Fatal(err)
	}
	keyset, err := sealing.Parse(text, "test")
	if err != nil {
		b.Fatal(err)
	}
	a := &auditBench{db: pgtest.Open(b)}
	if a.store, err = tenants.NewStore(tenants.Config{Pool: a.db.Pool, Keyset: keyset}); err != nil {
		b.Fatal(err)
	}
	for i := range 2 * count {
		tenant, err := a.store.CreateTenant(b.Context(), tenants.System(), tenants.TenantInput{
			Name: fmt.Sprintf("Tenant %d", i), Client: tenants.OAuthClient{ID: clientID, Secret: "secret"}, ReturnURLs: []string{returnURL},
		})
		if err != nil {
			b.Fatal(err)
		}
		if i < count {
			a.owners = append(a.owners, tenant.ID)
		} else {
			a.bare = append(a.bare, tenant.ID)
		}
	}
	a.next.Store(1) // a tenant's first row is there
	return a
}

// write calls one for each row, from 16 writers, and returns how long that took.
func (a *auditBench) write(b *testing.B, rows int, one func(b *testing.B, n int64) error) time.Duration {
	b.Helper()
	begun, left := clock(), int64(rows)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for atomic.AddInt64(&left, -1) >= 0 {
				if err := one(b, a.next.Add(1)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	return clock().Sub(begun)
}

const benchedOperation = "DELETE /v1/projects/{id}"

func (a *auditBench) append(b *testing.B, n int64) error {
	b.Helper()
	by := tenants.Actor{Type: tenants.ActorAPIKey, ID: "key_1", RequestID: "req_1"}
	call := tenants.OutgoingCall{Operation: benchedOperation, Target: "proj_1"}
	_, err := a.store.BeginCall(b.Context(), by, a.owners[n%int64(len(a.owners))], call)
	return err
}

func (a *auditBench) insert(b *testing.B, n int64) error {
	b.Helper()
	tenant := a.bare[n%int64(len(a.bare))]
	return postgres.InTx(b.Context(), a.db.Pool, postgres.Scope{Tenant: tenant.UUID}, func(tx pgx.Tx) error {
		_, err := tx.Exec(b.Context(), `
			INSERT INTO audit_log (tenant_id, at, actor_type, actor_id, request_id, sequence, action, target, details)
			VALUES ($1, app.now(), 'api_key', 'key_1', 'req_1', $2, 'prisma_call.begun', 'proj_1', jsonb_build_object('operation', $3::text))`,
			tenant, n, benchedOperation)
		return err
	})
}
