package apitest_test

import (
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

// The search for all secrets at once finds what one search for each does: secrets that
// begin alike, lie within each other, overlap, end the text or are escaped in it.
func TestTheSearchForAllSecretsFindsEach(t *testing.T) {
	t.Parallel()
	letters := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte("ab+/="[rand.IntN(5)])
		}
		return b.String()
	}
	found := 0
	for range 300 {
		var secrets []string
		for range 20 {
			secret := "aaaaaaaaaaaa"[:rand.IntN(12)]
			secrets = append(secrets, secret+letters(12-len(secret)+rand.IntN(4)))
		}
		slices.Sort(secrets)
		secrets = slices.Compact(secrets)
		var text strings.Builder
		for range 30 {
			one := secrets[rand.IntN(len(secrets))]
			switch rand.IntN(4) {
			case 0:
				text.WriteString(one)
			case 1:
				text.WriteString(url.QueryEscape(one))
			case 2:
				text.WriteString(one[:rand.IntN(len(one))])
			default:
				text.WriteString(letters(3))
			}
		}
		want := slices.DeleteFunc(slices.Clone(secrets), func(one string) bool {
			return !strings.Contains(text.String(), one) && !strings.Contains(text.String(), url.QueryEscape(one))
		})
		got := apitest.SecretsIn(secrets, text.String())
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("in %q of %q: %q, want %q", text.String(), secrets, got, want)
		}
		found += len(got)
	}
	if found < 300 {
		t.Errorf("only %d secrets were there to be found", found)
	}
}
