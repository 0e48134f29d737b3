package docs_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/tenants"
)

// TestDiagnosisTable compares the partners' table with the codes that the service has.
func TestDiagnosisTable(t *testing.T) {
	t.Parallel()
	type row struct{ Code, Action string }
	var want, got []row
	for _, code := range tenants.DiagnosisCodes() {
		want = append(want, row{string(code), string(code.Action())})
	}
	for _, cells := range table(t, "docs/partners.md", "code") {
		got = append(got, row{cells[0], cells[1]})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("diagnoses (-code +table):\n%s", diff)
	}
}
