package prismasim

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Seed is what exists before anybody acts. It has the JSON shape of PUT
// /_control/seed; what it names is made or, by its id (a service token: by its
// value), replaced.
type Seed struct {
	Clients       []Client       `json:"clients,omitempty"`
	Users         []User         `json:"users,omitempty"`
	Workspaces    []Workspace    `json:"workspaces,omitempty"`
	ServiceTokens []ServiceToken `json:"serviceTokens,omitempty"`
}

// Client is an OAuth client.
type Client struct {
	ID   string `json:"id"`
	Name string `json:"name"` // shown on the consent page; default: the id
	// Secret of a confidential client; a public one has none.
	Secret string `json:"secret,omitempty"`
	// OtherSecrets are taken as well: seeding the client again with other ones rotates its
	// secret, with or without a time in which two are good.
	OtherSecrets []string `json:"otherSecrets,omitempty"`
	// RedirectURIs are matched exactly, but for the port of a loopback host.
	RedirectURIs []string `json:"redirectUris"`
	Public       bool     `json:"public,omitempty"`
	// AnyLoopbackRedirect lets a public client name any http URI on a loopback host.
	AnyLoopbackRedirect bool `json:"anyLoopbackRedirect,omitempty"`
}

// User is somebody who can consent; the workspaces are those they may choose.
type User struct {
	ID           string   `json:"id"`
	Email        string   `json:"email"`
	Name         string   `json:"name"`
	WorkspaceIDs []string `json:"workspaceIds"`
}

// Workspace owns projects; the id is taken with or without "wksp_".
type Workspace struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ServiceToken acts on one workspace and never expires.
type ServiceToken struct {
	WorkspaceID string `json:"workspaceId"`
	Name        string `json:"name"`
	Value       string `json:"value"` // at least 8 characters
}

// validate reports the first thing that seed cannot be. known tells which
// workspaces exist already.
func (seed Seed) validate(known func(workspaceID string) bool) error {
	here := map[string]bool{}
	for _, w := range seed.Workspaces {
		if w.ID == "" || w.Name == "" {
			return errors.New("a workspace needs an id and a name")
		}
		here[canonicalID(prefixWorkspace, w.ID)] = true
	}
	exists := func(id string) bool {
		id = canonicalID(prefixWorkspace, id)
		return here[id] || known(id)
	}
	for _, c := range seed.Clients {
		if err := c.validate(); err != nil {
			return err
		}
	}
	for _, u := range seed.Users {
		if u.ID == "" || !strings.Contains(u.Email, "@") {
			return fmt.Errorf("user %q needs an id and an email address", u.ID)
		}
		for _, id := range u.WorkspaceIDs {
			if !exists(id) {
				return fmt.Errorf("user %q names workspace %q, which does not exist", u.ID, id)
			}
		}
	}
	for _, t := range seed.ServiceTokens {
		if t.Name == "" || len(t.Value) < 8 {
			return errors.New("a service token needs a name and a value of at least 8 characters")
		}
		if !exists(t.WorkspaceID) {
			return fmt.Errorf("service token %q names workspace %q, which does not exist", t.Name, t.WorkspaceID)
		}
	}
	return nil
}

func (c Client) validate() error {
	if c.ID == "" {
		return errors.New("a client needs an id")
	}
	if c.Public != (c.Secret == "") {
		return fmt.Errorf("client %q must be either public or have a secret", c.ID)
	}
	if c.Public && len(c.OtherSecrets) > 0 || slices.Contains(c.OtherSecrets, "") {
		return fmt.Errorf("client %q: a public client has no other secrets, and none is empty", c.ID)
	}
	if c.AnyLoopbackRedirect && !c.Public {
		return fmt.Errorf("client %q: only a public client may have anyLoopbackRedirect", c.ID)
	}
	if len(c.RedirectURIs) == 0 && !c.AnyLoopbackRedirect {
		return fmt.Errorf("client %q needs a redirect URI", c.ID)
	}
	for _, uri := range c.RedirectURIs {
		u, err := url.Parse(uri)
		if err != nil || u.Scheme == "" || u.Fragment != "" || strings.Contains(uri, "#") {
			return fmt.Errorf("client %q: redirect URI %q must be absolute and have no fragment", c.ID, uri)
		}
	}
	return nil
}

// applySeed validates seed and makes or replaces what it names.
func (s *Simulator) applySeed(ctx context.Context, seed Seed) error {
	return s.write(ctx, func(st *state) error {
		if err := seed.validate(func(id string) bool { _, ok := st.workspaces.get(id); return ok }); err != nil {
			return err
		}
		for _, w := range seed.Workspaces {
			id := canonicalID(prefixWorkspace, w.ID)
			row, ok := st.workspaces.get(id)
			if !ok {
				row = workspace{ID: id, CreatedAt: s.clock.now()}
			}
			row.Name, row.Seeded = w.Name, true
			st.workspaces.set(id, row)
		}
		for _, c := range seed.Clients {
			s.seedClient(st, c)
		}
		for _, u := range seed.Users {
			row := user{ID: u.ID, Email: u.Email, Name: u.Name}
			for _, id := range u.WorkspaceIDs {
				row.WorkspaceIDs = append(row.WorkspaceIDs, canonicalID(prefixWorkspace, id))
			}
			st.users.set(u.ID, row)
		}
		for _, t := range seed.ServiceTokens {
			s.addServiceToken(st, canonicalID(prefixWorkspace, t.WorkspaceID), t.Name, t.Value, true)
		}
		return nil
	})
}

func (s *Simulator) seedClient(st *state, c Client) {
	row := client{
		ID: c.ID, Name: c.Name, RedirectURIs: c.RedirectURIs,
		Public: c.Public, AnyLoopbackRedirect: c.AnyLoopbackRedirect, CreatedAt: s.clock.now(),
	}
	if row.Name == "" {
		row.Name = c.ID
	}
	if c.Secret != "" {
		row.SecretHash = hashSecret(c.Secret)
	}
	for _, secret := range c.OtherSecrets {
		row.OtherSecretHashes = append(row.OtherSecretHashes, hashSecret(secret))
	}
	if old, ok := st.clients.get(c.ID); ok {
		row.CreatedAt = old.CreatedAt
	}
	st.clients.set(c.ID, row)
}

// addServiceToken stores a service token; the same value again replaces the row.
func (s *Simulator) addServiceToken(st *state, workspaceID, name, value string, seeded bool) serviceToken {
	hash := hashSecret(value)
	row := serviceToken{
		ID: newID(prefixServiceToken), Seq: st.nextSeq(), WorkspaceID: workspaceID, Name: name, Hash: hash,
		Hint: value[:4] + "…" + value[len(value)-2:], CreatedAt: s.clock.now(), Seeded: seeded,
	}
	if id, ok := st.serviceTokenByHash[hash]; ok {
		old := st.serviceTokens.rows[id]
		row.ID, row.Seq, row.CreatedAt = old.ID, old.Seq, old.CreatedAt
	}
	st.serviceTokens.set(row.ID, row)
	st.serviceTokenByHash[hash] = row.ID
	return row
}
