package tenants_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

// finish ends a credentials operation of one database with a secret.
func (o operations) finish(t *testing.T, key, made string) {
	t.Helper()
	op, err := o.BeginOperation(t.Context(), o.tenant, tenants.NewOperation{
		Connection: o.connection, Kind: tenants.OperationCreateCredentials, Key: key,
		RequestHash: [32]byte{byte(len(made))}, Lease: time.Minute,
	})
	ok(t, err)
	_, err = o.FinishOperation(t.Context(), tenants.System(), op, tenants.Made{
		ResourceID: made, Answer: json.RawMessage(`{}`), Secret: "postgres://secret", DatabaseID: "db_1", CredentialsID: made,
	})
	ok(t, err)
}

func (o operations) kept(t *testing.T) int {
	t.Helper()
	pool := openPool(t, o.db.AdminURL, 1, nil)
	var n int
	ok(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM operations WHERE secret_sealed IS NOT NULL`).Scan(&n))
	return n
}

// A connection string is kept where a key can ask for it again, for an hour.
func TestKeptSecretsAreErased(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	o.finish(t, "", "con_1")
	if n := o.kept(t); n != 0 {
		t.Errorf("%d secrets are kept without a key", n)
	}
	o.finish(t, "k", "con_22")
	o.db.Advance(t, tenants.SecretReplay-time.Minute)
	if n, err := o.EraseSecrets(t.Context()); err != nil || n != 0 || o.kept(t) != 1 {
		t.Errorf("before their time %d were erased, %v", n, err)
	}
	o.db.Advance(t, 2*time.Minute)
	if n, err := o.EraseSecrets(t.Context()); err != nil || n != 1 || o.kept(t) != 0 {
		t.Errorf("after their time %d were erased, %v", n, err)
	}
}

// The string of further credentials dies with their database too.
func TestSecretsOfADeletedDatabaseAreErased(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	o.finish(t, "k", "con_22")
	o.delete(t, tenants.ResourceChange{DatabaseID: "db_1", ProjectID: "proj_1"})
	if n := o.kept(t); n != 0 {
		t.Errorf("%d secrets outlive their database", n)
	}
}

// So it does with its project, and with the credentials themselves, which leave those of
// others alone.
func TestSecretsOfWhatIsGoneAreErased(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	o.finish(t, "k1", "con_1")
	o.finish(t, "k2", "con_2")
	o.delete(t, tenants.ResourceChange{CredentialsID: "con_1"})
	if n := o.kept(t); n != 1 {
		t.Errorf("%d secrets are kept beside those of deleted credentials, want 1", n)
	}
	o.delete(t, tenants.ResourceChange{ProjectID: "proj_1", DatabaseIDs: []string{"db_1", "db_2"}})
	if n := o.kept(t); n != 0 {
		t.Errorf("%d secrets outlive their project", n)
	}
}

// delete deletes something.
func (o operations) delete(t *testing.T, change tenants.ResourceChange) {
	t.Helper()
	change.Tenant, change.Connection = o.tenant, o.connection
	_, err := o.BeginDeletion(t.Context(), change)
	ok(t, err)
	if told, err := o.FinishDeletion(t.Context(), tenants.System(), change); err != nil || !told {
		t.Errorf("the deletion is not told: %v", err)
	}
}
