package apitest

import (
	"net/url"
	"strings"
)

// finder looks for many texts at once: a test has thousands of secrets and as many places
// where they must not be, too many for one search each.
type finder struct {
	maybe  [1 << 16]bool       // by a hash of four bytes: whether a text may begin with them
	starts map[string][]target // by the first bytes of what is looked for
}

// target is a form of a secret, and which secret.
type target struct {
	form   string
	secret string
}

// newFinder looks for texts, of which none is shorter than shortest, as they are and as
// they are in addresses.
func newFinder(secrets map[string]string) *finder {
	f := &finder{starts: make(map[string][]target, len(secrets))}
	for secret := range secrets {
		f.add(secret, secret)
		if escaped := url.QueryEscape(secret); escaped != secret {
			f.add(escaped, secret)
		}
	}
	return f
}

func (f *finder) add(form, secret string) {
	f.maybe[hashOf(form)] = true
	f.starts[form[:shortest]] = append(f.starts[form[:shortest]], target{form, secret})
}

// in returns the secrets that are in a text, each once.
func (f *finder) in(text string) []string {
	var found []string
	seen := map[string]bool{}
	for i := 0; i+shortest <= len(text); i++ {
		if !f.maybe[hashOf(text[i:])] {
			continue
		}
		for _, t := range f.starts[text[i:i+shortest]] {
			if !seen[t.secret] && strings.HasPrefix(text[i:], t.form) {
				seen[t.secret] = true
				found = append(found, t.secret)
			}
		}
	}
	return found
}

// hashOf mixes the first four bytes of a text (Fibonacci hashing).
func hashOf(text string) uint16 {
	four := uint32(text[0]) | uint32(text[1])<<8 | uint32(text[2])<<16 | uint32(text[3])<<24
	return uint16(four * 2654435769 >> 16)
}
