package app

import (
	"errors"
	"strings"
)

// maxUserID is the longest user id that may be typed in, in bytes.
const maxUserID = 64

// errUserID refuses what was typed in as a user id.
var errUserID = errors.New("not a user id")

// account is a user as the pages name them.
type account struct {
	ID    string
	Label string
}

// sampleUsers are the users that one click signs in. A real app has its own login;
// all that matters to the connect flow is that it knows who is there.
func sampleUsers() []account {
	return []account{
		{ID: "ada", Label: "Ada Lovelace"},
		{ID: "grace", Label: "Grace Hopper"},
		{ID: "alan", Label: "Alan Turing"},
	}
}

// userLabel names a user for people: on the connect page too, where it lets
// somebody notice that they were sent another person's link.
func userLabel(id string) string {
	for _, user := range sampleUsers() {
		if user.ID == id {
			return user.Label
		}
	}
	return id
}

// userID reads an id from the sign-in form.
func userID(raw string) (string, error) {
	id := strings.TrimSpace(raw)
	strange := strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._@-", r)
	})
	if id == "" || len(id) > maxUserID || strange {
		return "", errUserID
	}
	return id, nil
}
