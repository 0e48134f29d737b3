// Package contractfuzz_test sends requests that are made from the contract to every
// operation: right ones, and ones with something wrong in the key, path, query, headers
// or body. What was answered decides which ids later requests use, so that things are
// changed, deleted and asked for again.
//
// Package apitest holds every answer against the contract: a status, a body or a kind of
// problem that is not in it fails the test, as does any answer above 499, any secret
// shown and any header missing. Here is tested what depends on the request: a wrong one
// is refused and does nothing, a right one is not, a bad key never passes, and nothing
// of another tenant or of what was deleted is ever seen.
//
//	go test ./internal/apitest/contractfuzz -contract.cases=20000
package contractfuzz_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

var (
	cases = flag.Int("contract.cases", 2000, "requests to make")
	seed  = flag.Uint64("contract.seed", 0, "of the choices; 0 takes a new one, which is logged")
)

// batch is how many requests one world takes: at its end every answer is searched for
// every secret.
const batch = 2000

//nolint:tparallel // one world at a time keeps the machine busy
func TestContract(t *testing.T) {
	t.Parallel()
	chosen := *seed
	for chosen == 0 {
		chosen = uint64(rand.Uint32())
	}
	t.Logf("-contract.cases=%d -contract.seed=%d", *cases, chosen)
	for first := 0; first < *cases; first += batch {
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			w := apitest.New(t)
			f := newFuzzer(t, w, rand.New(rand.NewPCG(chosen, uint64(first))))
			n := min(batch, *cases-first)
			for i := 0; i < n && f.complaints < enough; i++ {
				f.step(t, f.operations[i%len(f.operations)])
			}
			if n >= enoughForAll*len(f.operations) {
				f.insist(t)
			}
			f.report(t, n)
		})
	}
}

const (
	// enough complaints end a run.
	enough = 10
	// enoughForAll is how many cases of each operation make it worth asking whether it ever
	// succeeds.
	enoughForAll = 50
	// patience is how many more an operation gets that did not by chance, such as a restore,
	// which finds a backup in one case of twelve.
	patience = 500
)

// insist goes on with the operations that have not succeeded.
func (f *fuzzer) insist(t *testing.T) {
	t.Helper()
	for _, op := range f.operations {
		for i := 0; i < patience && f.mustSucceed(op) && f.good(op) == 0 && f.complaints < enough; i++ {
			f.step(t, op)
		}
	}
}

// mustSucceed tells whether an operation is to have succeeded at least once.
func (*fuzzer) mustSucceed(op operation) bool {
	return op.method == http.MethodGet || !op.passesThrough()
}

// good counts what an operation has done with success.
func (f *fuzzer) good(op operation) (n int) {
	for status, answers := range f.statuses[op.id] {
		if status < http.StatusMultipleChoices {
			n += answers
		}
	}
	return n
}

// fuzzer is one run.
type fuzzer struct {
	*rand.Rand

	world      *apitest.World
	operations []operation
	ids        *ids
	keys       keys

	statuses map[string]map[int]int // answers by operation and status
	wrong    map[string]int         // requests by what was wrong with them

	complaints int
}

// step makes one request of an operation and judges its answer.
func (f *fuzzer) step(t *testing.T, op operation) {
	t.Helper()
	r := f.request(t, op)
	answer := f.world.Call(t, "", r.method, r.path, r.body, r.header)
	f.count(r, answer)
	if complaint := r.judge(answer); complaint != "" {
		f.complaints++
		t.Errorf("%s (%s) with %q: %d: %s", op.id, r.method, r.wrong, answer.Status, complaint)
		return
	}
	f.ids.learn(r, answer)
	if tag := answer.Header.Get("ETag"); tag != "" && answer.Status == http.StatusOK && f.IntN(4) == 0 {
		f.again(t, r, tag)
	}
}

// again asks once more for what was just given.
func (f *fuzzer) again(t *testing.T, r request, tag string) {
	t.Helper()
	header := r.header.Clone()
	header.Set("If-None-Match", `"another", W/`+tag)
	answer := f.world.Call(t, "", r.method, r.path, nil, header)
	same := answer.Header.Get("ETag") == tag
	if answer.Status == http.StatusOK && same || answer.Status == http.StatusNotModified && (!same || len(answer.Body) > 0) {
		t.Errorf("%s again: %d with the same tag: %t, %d bytes", r.op.id, answer.Status, same, len(answer.Body))
	}
	f.count(request{op: r.op, wrong: "nothing, asked again"}, answer)
}

func (f *fuzzer) count(r request, answer apitest.Answer) {
	if f.statuses[r.op.id] == nil {
		f.statuses[r.op.id] = make(map[int]int)
	}
	f.statuses[r.op.id][answer.Status]++
	f.wrong[r.wrong]++
}

// report logs what was tried in n requests, and fails when an operation never succeeded: it would not
// have been tried at all.
func (f *fuzzer) report(t *testing.T, n int) {
	t.Helper()
	for _, op := range f.operations {
		answers := f.statuses[op.id]
		var parts []string
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			parts = append(parts, fmt.Sprintf("%d×%d", answers[status], status))
		}
		t.Logf("%-24s %s", op.id, strings.Join(parts, " "))
		if f.mustSucceed(op) && f.good(op) == 0 && n >= enoughForAll*len(f.operations) {
			t.Errorf("%s never succeeded", op.id)
		}
	}
	for _, wrong := range slices.Sorted(maps.Keys(f.wrong)) {
		t.Logf("%6d × %s", f.wrong[wrong], wrong)
	}
}
