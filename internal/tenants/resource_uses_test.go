package tenants_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// use begins a call that uses things; op is "" for one of no operation.
func (o operations) use(t *testing.T, op string, ids ...string) error {
	t.Helper()
	_, err := o.BeginCall(t.Context(), tenants.System(), o.tenant, tenants.OutgoingCall{
		Connection: o.connection, Operation: "updateDatabase", OperationID: op, Uses: ids,
	})
	return err
}

func (o operations) condemn(t *testing.T, op tenants.Operation, ids ...string) bool {
	t.Helper()
	condemned, err := o.Condemn(t.Context(), op, ids)
	ok(t, err)
	return condemned
}

// What somebody has begun to use is no double to be deleted, whatever the form of its id.
func TestWhatIsUsedIsNotCondemned(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	op, err := o.begin(t, time.Minute)
	ok(t, err)
	own, other := op.ID.String(), tenants.OperationID{UUID: o.connection.UUID}.String()
	type use struct{ op, id string }
	for i, tc := range []struct {
		name string
		uses []use
		want bool // it may be deleted
	}{
		{"nobody", nil, true},
		{"somebody", []use{{"", "db_%d"}}, false},
		{"somebody, by its plain id", []use{{"", "%d"}}, false},
		{"another operation", []use{{other, "db_%d"}}, false},
		{"its own operation", []use{{own, "db_%d"}, {own, "db_%d"}}, true},
		{"its own operation and another", []use{{own, "db_%d"}, {other, "db_%d"}}, false},
		{"another operation and its own", []use{{other, "db_%d"}, {own, "db_%d"}}, false},
		{"somebody, what is in it", []use{{"", "con_in%d"}}, false},
		{"somebody, something else", []use{{"", "db_else%d"}, {"", ""}, {"", "db_"}, {"", "a/b %d"}, {"", strings.Repeat("x", 300)}}, true},
	} {
		name := func(id string) string { return strings.ReplaceAll(id, "%d", fmt.Sprint("x", i)) }
		for _, u := range tc.uses {
			ok(t, o.use(t, u.op, name(u.id)))
		}
		elsewhere, err := o.UsedElsewhere(t.Context(), op, name("db_%d"))
		ok(t, err)
		if want := !tc.want && tc.name != "somebody, what is in it"; elsewhere != want {
			t.Errorf("used by %s: used elsewhere = %t, want %t", tc.name, elsewhere, want)
		}
		if got := o.condemn(t, op, name("db_%d"), name("con_in%d")); got != tc.want {
			t.Errorf("used by %s: may be deleted = %t, want %t", tc.name, got, tc.want)
		}
	}
}

// What an operation has recorded is no double either.
func TestWhatIsRecordedIsNotCondemned(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	o.finish(t, "done", "con_1")
	op, err := o.begin(t, time.Minute)
	ok(t, err)
	for id, want := range map[string]bool{"con_1": false, "1": false, "db_1": false, "con_3": true} {
		if got := o.condemn(t, op, id); got != want {
			t.Errorf("%s may be deleted = %t, want %t", id, got, want)
		}
	}
}

// What is being deleted can't be used, for a while; nor can anything be that can't be told.
func TestWhatIsCondemnedIsNotUsed(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	op, err := o.begin(t, time.Hour)
	ok(t, err)
	for range 2 { // a look may be repeated
		if !o.condemn(t, op, "db_1", "con_1") {
			t.Fatal("an unused double may not be deleted")
		}
	}
	for _, ids := range [][]string{{"db_1"}, {"1"}, {"db_2", "con_1"}, {tenants.Anything}} {
		if err := o.use(t, "", ids...); fault.KindOf(err) != fault.Conflict {
			t.Errorf("%v is used: %v", ids, err)
		}
	}
	ok(t, o.use(t, "", "db_3"))
	o.db.Advance(t, 6*time.Minute) // its deletion has failed
	ok(t, o.use(t, "", "db_1"))
	if o.condemn(t, op, "db_1", "con_1") {
		t.Error("what is used since may be deleted")
	}
	ok(t, o.use(t, "", tenants.Anything))
	if o.condemn(t, op, "db_4") {
		t.Error("something may be deleted although anything may be in use")
	}
	later, err := o.BeginOperation(t.Context(), o.tenant, tenants.NewOperation{
		Connection: o.connection, Kind: tenants.OperationCreateDatabase, Lease: time.Hour,
	})
	ok(t, err)
	o.db.Advance(t, time.Minute)
	if !o.condemn(t, later, "db_5") {
		t.Error("what began later may not be deleted because of an earlier call")
	}
}

// Of a use and a condemnation at the same time, one comes to pass.
func TestUsedAndCondemnedAtOnce(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	op, err := o.begin(t, time.Minute)
	ok(t, err)
	used := 0
	for i := range 60 {
		id := fmt.Sprint("db_", i)
		var both sync.WaitGroup
		var use error
		var condemned bool
		both.Go(func() { use = o.use(t, "", id) })
		both.Go(func() { condemned, _ = o.Condemn(t.Context(), op, []string{id}) })
		both.Wait()
		if (use == nil) == condemned {
			t.Errorf("%s: used = %v, condemned = %t", id, use, condemned)
		}
		if use == nil {
			used++
		}
	}
	t.Logf("%d of 60 were used, the others condemned", used)
}

// Uses are forgotten when no operation is looked at any more that they could protect from,
// and of one that is older nothing is deleted, nor taken for unused.
func TestUsesAreForgotten(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	op, err := o.begin(t, time.Minute)
	ok(t, err)
	ok(t, o.use(t, "", "db_1"))
	unused := func() bool {
		elsewhere, err := o.UsedElsewhere(t.Context(), op, "db_2")
		ok(t, err)
		return !elsewhere
	}
	o.db.Advance(t, 7*24*time.Hour)
	if !unused() {
		t.Error("what nobody used is said to be used")
	}
	if n, err := o.ForgetUses(t.Context()); err != nil || n != 0 || o.condemn(t, op, "db_1") {
		t.Errorf("after 7 days %d uses are forgotten, %v", n, err)
	}
	o.db.Advance(t, 25*time.Hour)
	if n, err := o.ForgetUses(t.Context()); err != nil || n != 1 || o.condemn(t, op, "db_1") {
		t.Errorf("after 8 days %d uses are forgotten, %v", n, err)
	}
	if unused() {
		t.Error("what may have been used is said not to be")
	}
}
