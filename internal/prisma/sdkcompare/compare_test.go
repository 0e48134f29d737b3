// Package sdkcompare_test plays the same scenarios with Prisma's published SDK
// (@prisma/management-api-sdk, in a node process) and with package prisma, and compares
// what happened, line by line:
//
//	scenario ──▶ SDK ──▶ front ──▶ simulator (fresh, same seed)
//	                       │
//	                       └─▶ transcript: every request in its order (method, path,
//	                           parameters, headers, body, how it was answered), the
//	                           outcome of every step (value, or class and message of
//	                           the error), the tokens stored in the end
//
// Random values have names by identity (access#1 is the same token wherever it stands),
// so that two transcripts are equal if the SDKs did the same. Where ours does something
// else, the table differences says so, with both sides' lines and the name of the
// reason; the reasons are the table in docs/sdk.md.
package sdkcompare_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// document is where the differences are explained, from here.
const document = "../../../docs/sdk.md"

// scenario is a play for either side.
type scenario struct {
	name string
	play func(*stage)
}

// expiryKept ends the line about a storage that knows when its access token ends.
const expiryKept = ", with its expiry"

// everywhere are the differences that are in so many scenarios that none names them.
// What is dropped from a transcript is dropped only if it is exactly this.
var everywhere = []string{"discovery", "expiry-kept", "request-headers"}

// headersOf are the headers that each side's HTTP client adds by itself.
var headersOf = map[string]map[string]*regexp.Regexp{
	"theirs": {
		"Accept":          regexp.MustCompile(`^\*/\*$`),
		"Accept-Encoding": regexp.MustCompile(`^(br, )?gzip, deflate(, br)?$`),
		"Accept-Language": regexp.MustCompile(`^\*$`),
		"Sec-Fetch-Mode":  regexp.MustCompile(`^cors$`),
		"User-Agent":      regexp.MustCompile(`^(node|undici)$`),
	},
	"ours": {
		"Accept":          regexp.MustCompile(`^application/json$`),
		"Accept-Encoding": regexp.MustCompile(`^gzip$`),
		"User-Agent":      regexp.MustCompile(`^Go-http-client/1.1$`),
	},
}

// findings count how often each of everywhere was seen.
type findings struct {
	mu   sync.Mutex
	seen map[string]int
}

func (f *findings) add(id string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[id] += n
}

// strip takes what differs everywhere out of a stage's transcript and returns its lines.
func (f *findings) strip(s *stage, who string) []string {
	if who == "ours" {
		// Each SDK looks once at most, in the time that a scenario takes.
		f.add("discovery", s.log.drop(s.sdks, func(r *request) bool {
			return r.method == "GET" && strings.HasPrefix(r.path, "/.well-known/oauth-authorization-server")
		}))
	}
	s.log.requests(func(r *request) {
		for key, pattern := range headersOf[who] {
			if pattern.MatchString(r.header.Get(key)) {
				r.header.Del(key)
				f.add("request-headers", 1)
			}
		}
	})
	lines := s.log.lines()
	if who == "ours" {
		for i, line := range lines {
			if without, ok := strings.CutSuffix(line, expiryKept); ok {
				lines[i] = without
				f.add("expiry-kept", 1)
			}
		}
	}
	return lines
}

// scenarios are all of them.
func scenarios() []scenario {
	return slices.Concat(
		loginScenarios(), callbackScenarios(), exchangeScenarios(), serverScenarios(),
		exchangeFailureScenarios(), storageScenarios(),
		clientScenarios(), callScenarios(), failureScenarios(),
		refreshScenarios(), oddRefreshScenarios(), refreshFailureScenarios(), raceScenarios(), cancelScenarios(),
	)
}

// TestSideBySide plays every scenario with both SDKs. Any line that only one of them has
// must be named as a difference, and every difference named must be there.
func TestSideBySide(t *testing.T) {
	t.Parallel()

	process := theirs{node: startNode(t), names: new(atomic.Int64)}
	var pinned struct{ Dependencies map[string]string }
	if err := json.Unmarshal(readTestdata(t, "package.json"), &pinned); err != nil {
		t.Fatal(err)
	}
	var version string
	if failed := process.ask(t.Context(), t, "version", nil, &version); failed != nil || version != pinned.Dependencies["@prisma/management-api-sdk"] {
		t.Fatalf("Prisma's SDK is %q (%v), want the pinned %v", version, failed, pinned.Dependencies)
	}

	found := &findings{seen: map[string]int{}}
	houses := newStreet(t, 3)
	var played atomic.Int64
	all := scenarios()
	t.Cleanup(func() { // when the scenarios have ended
		for _, id := range everywhere {
			if int(played.Load()) == len(all) && found.seen[id] == 0 {
				t.Errorf("the difference %s is not there", id)
			}
		}
	})
	for _, sc := range all {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			played.Add(1)
			their := found.strip(houses.run(t, process, sc.play), "theirs")
			our := found.strip(houses.run(t, ours{}, sc.play), "ours")
			compare(t, sc, their, our)
		})
	}
}

// compare holds two transcripts against each other.
func compare(t *testing.T, sc scenario, their, our []string) {
	t.Helper()
	var wantTheirs, wantOurs []string
	for _, d := range differences[sc.name] {
		if d.theirs == d.ours {
			t.Errorf("%s: a difference without one: %q", d.id, d.ours)
		}
		if d.theirs != "" {
			wantTheirs = append(wantTheirs, d.theirs)
		}
		if d.ours != "" {
			wantOurs = append(wantOurs, d.ours)
		}
	}
	onlyTheirs, onlyOurs := apart(their, our)
	for _, side := range []struct {
		name      string
		want, got []string
	}{{"the published SDK", wantTheirs, onlyTheirs}, {"ours", wantOurs, onlyOurs}} {
		slices.Sort(side.want)
		slices.Sort(side.got)
		if diff := cmp.Diff(side.want, side.got); diff != "" {
			t.Errorf("lines that only %s has (-named +there):\n%s", side.name, diff)
		}
	}
	if t.Failed() {
		t.Logf("the published SDK:\n\t%s\nours:\n\t%s", strings.Join(their, "\n\t"), strings.Join(our, "\n\t"))
	}
}

// apart returns the lines of a and b that are not in their longest common subsequence.
func apart(a, b []string) (onlyA, onlyB []string) {
	longest := make([][]int, len(a)+1)
	for i := range longest {
		longest[i] = make([]int, len(b)+1)
	}
	for i, lineA := range slices.Backward(a) {
		for j, lineB := range slices.Backward(b) {
			if lineA == lineB {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			i, j = i+1, j+1
		case longest[i+1][j] >= longest[i][j+1]:
			onlyA = append(onlyA, a[i])
			i++
		default:
			onlyB = append(onlyB, b[j])
			j++
		}
	}
	return append(onlyA, a[i:]...), append(onlyB, b[j:]...)
}

// TestDifferencesAreDocumented: the table in the documentation has exactly the
// differences that the scenarios name, in order and each with its reason.
func TestDifferencesAreDocumented(t *testing.T) {
	t.Parallel()

	text, err := os.ReadFile(filepath.FromSlash(document))
	if err != nil {
		t.Fatal(err)
	}
	var documented []reason
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (.+?) \\| (.+?) \\|$").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, reason{id: row[1], what: row[2], why: row[3]})
	}
	if diff := cmp.Diff(reasons, documented, cmp.AllowUnexported(reason{})); diff != "" {
		t.Errorf("differences (-test +%s):\n%s", document, diff)
	}

	used := map[string]bool{}
	for _, id := range everywhere {
		used[id] = true
	}
	names := map[string]bool{}
	for _, sc := range scenarios() {
		if names[sc.name] {
			t.Errorf("two scenarios are called %q", sc.name)
		}
		names[sc.name] = true
	}
	for scenario, named := range differences {
		if !names[scenario] {
			t.Errorf("differences of %q, which is no scenario", scenario)
		}
		for _, d := range named {
			used[d.id] = true
			if d.id == "wording" && unworded(d.theirs) != unworded(d.ours) {
				t.Errorf("%q: more than words differ: %q, %q", scenario, d.theirs, d.ours)
			}
		}
	}
	known := map[string]bool{}
	for _, r := range reasons {
		known[r.id] = true
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(used))); diff != "" {
		t.Errorf("differences (-explained +named by a scenario):\n%s", diff)
	}
}

// unworded is a line about a failed step without the message: step, class and flags.
func unworded(line string) string {
	class, rest, _ := strings.Cut(line, `: "`)
	return class + rest[strings.LastIndex(rest, `"`)+1:]
}

func decode(s *stage, value, into any) {
	s.t.Helper()
	text, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		s.t.Fatalf("read a value: %v", err)
	}
}
