package admin_test

import (
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/fault"
)

func TestHashPassword(t *testing.T) {
	t.Parallel()
	const secret = "a long pässword"
	first, err := admin.HashPassword(secret)
	if err != nil {
		t.Fatal(err)
	}
	second, err := admin.HashPassword(secret)
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Error("two hashes of one password are equal: no salt")
	}
	if !strings.HasPrefix(first, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash begins with %.31q", first)
	}
	for password, want := range map[string]bool{secret: true, secret + " ": false, strings.ToUpper(secret): false, "": false} {
		if got, err := admin.PasswordMatches(first, password); err != nil || got != want {
			t.Errorf("%q matches: %t, %v; want %t", password, got, err, want)
		}
	}
	for _, refused := range []string{"", "elevenchars", strings.Repeat("x", 1025)} {
		if _, err := admin.HashPassword(refused); fault.KindOf(err) != fault.InvalidValue {
			t.Errorf("a password of %d bytes: %v, want it refused", len(refused), err)
		}
	}
}

// The hash is what the reference implementation makes of that password and salt
// with these costs: printf password | argon2 somesalt -id -t 2 -k 65536 -p 1.
func TestPasswordMatchesTheReferenceImplementation(t *testing.T) {
	t.Parallel()
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if got, err := admin.PasswordMatches(reference, "password"); err != nil || !got {
		t.Errorf("the reference hash doesn't match: %t, %v", got, err)
	}
	if got, err := admin.PasswordMatches(reference, "Password"); err != nil || got {
		t.Errorf("another password matches: %t, %v", got, err)
	}
}

func TestMalformedHashesAreRefused(t *testing.T) {
	t.Parallel()
	const salt, sum = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, hash := range []string{
		"", "$", "password", "$2b$12$abcdefghijklmnopqrstuv", "$argon2i$v=19$m=65536,t=2,p=1$" + salt + "$" + sum,
		"$argon2id$v=16$m=65536,t=2,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=65536,t=2$" + salt + "$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=1,x=1$" + salt + "$" + sum, "$argon2id$v=19$m=99999999,t=2,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=65536,t=0,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=65536,t=2,p=0$" + salt + "$" + sum,
		"$argon2id$v=19$m=65536,t=99,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=65536,t=2,p=1$" + salt + "$",
		"$argon2id$v=19$m=65536,t=2,p=1$$" + sum, "$argon2id$v=19$m=65536,t=2,p=1$***$" + sum,
		"$argon2id$v=19$m=65536,t=2,p=1$" + salt + "$" + sum + "$more", "$argon2id$v=19$m=-1,t=2,p=1$" + salt + "$" + sum,
	} {
		if got, err := admin.PasswordMatches(hash, "password"); err == nil || got {
			t.Errorf("%q: %t without an error", hash, got)
		}
	}
}
