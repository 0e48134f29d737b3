package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
)

func TestKindOf(t *testing.T) {
	t.Parallel()

	cause := errors.New("row is gone")
	marked := fault.New(fault.NotFound, "There is no such connection.", cause)
	tests := map[string]struct {
		err  error
		want fault.Kind
	}{
		"nil":              {nil, fault.Internal},
		"unmarked":         {cause, fault.Internal},
		"marked":           {marked, fault.NotFound},
		"wrapped":          {fmt.Errorf("load connection: %w", marked), fault.NotFound},
		"the outer counts": {fault.New(fault.Conflict, "Busy.", marked), fault.Conflict},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := fault.KindOf(tc.err); got != tc.want {
				t.Errorf("KindOf() = %q, want %q", got, tc.want)
			}
		})
	}
	if !errors.Is(marked, cause) {
		t.Error("the cause is not reachable through errors.Is")
	}
}

func TestKindsAreDistinctAndKebabCase(t *testing.T) {
	t.Parallel()

	seen := map[fault.Kind]bool{}
	for _, k := range fault.Kinds() {
		if seen[k] {
			t.Errorf("kind %q is listed twice", k)
		}
		seen[k] = true
		for _, r := range string(k) {
			if r != '-' && (r < 'a' || r > 'z') {
				t.Errorf("kind %q is not kebab-case", k)
			}
		}
	}
}
