package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/sealing"
)

// devStateFile keeps what dev made up at its first start, 0600.
const devStateFile = "secrets.json"

// devState is that: the secrets and ids that have to stay the same, so that a
// second start keeps the data.
type devState struct {
	CookieKeys    string `json:"cookieKeys"`
	TokenKeyset   string `json:"tokenKeyset"`
	OwnerPassword string `json:"ownerPassword"` // Postgres role connect_owner
	AppPassword   string `json:"appPassword"`   // Postgres role connect_app
	ClientSecret  string `json:"clientSecret"`
	ServiceToken  string `json:"serviceToken"`
	SessionKey    string `json:"sessionKey"` // of the sample app
	AdminPassword string `json:"adminPassword"`
	TenantID      string `json:"tenantId"` // "" before the first seed
	APIKey        string `json:"apiKey"`
}

// loadDevState reads the state, or makes a new one and writes it.
func loadDevState(path string) (devState, error) {
	var state devState
	content, err := os.ReadFile(path) //nolint:gosec // below the data directory
	switch {
	case err == nil:
		if err := json.Unmarshal(content, &state); err != nil {
			return state, fmt.Errorf("%s is damaged; remove the data directory to begin anew: %w", path, err)
		}
		return state, nil
	case !errors.Is(err, fs.ErrNotExist):
		return state, err
	}
	keyset, err := sealing.Generate()
	if err != nil {
		return state, err
	}
	state = devState{
		CookieKeys: sealing.GenerateCookieKeys(), TokenKeyset: keyset,
		OwnerPassword: randomText(), AppPassword: randomText(), ClientSecret: randomText(), ServiceToken: randomText(),
		SessionKey: randomText() + randomText(), AdminPassword: randomText(),
	}
	return state, state.save(path)
}

func (s devState) save(path string) error {
	content, err := json.MarshalIndent(s, "", "  ") //nolint:gosec // G117: this file is for secrets
	if err != nil {
		return err
	}
	return writeFile(path, append(content, '\n'))
}

// writeFile replaces a file as a whole, readable by its owner alone.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	half, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(half.Name())
	_, err = half.Write(content)
	if err = errors.Join(err, half.Close()); err != nil {
		return err
	}
	return os.Rename(half.Name(), path)
}

func randomText() string { return strings.ToLower(rand.Text()) } // 130 bits

// The registrations at the simulator.
const (
	devClientID       = "connect-prisma-dev"
	devPublicClientID = "connect-prisma-dev-public"
)

func devWorkspaces() []string { return []string{"wksp_adas_workspace", "wksp_moonshot_labs"} }

// devSeed is what the simulator begins with: a user with two workspaces, the
// partner's own workspace with a service token, and two clients.
func devSeed(state devState, redirectURIs []string) prismasim.Seed {
	const partnerWorkspace = "wksp_demo_partner"
	workspaces := devWorkspaces()
	return prismasim.Seed{
		Clients: []prismasim.Client{
			{ID: devClientID, Name: "Sample app", Secret: state.ClientSecret, RedirectURIs: redirectURIs},
			{ID: devPublicClientID, Name: "Local SDK", Public: true, AnyLoopbackRedirect: true},
		},
		Workspaces: []prismasim.Workspace{
			{ID: workspaces[0], Name: "Ada’s workspace"},
			{ID: workspaces[1], Name: "Moonshot Labs"},
			{ID: partnerWorkspace, Name: "Sample app"},
		},
		Users: []prismasim.User{{ID: "user_ada", Email: "ada@example.com", Name: "Ada Lovelace", WorkspaceIDs: workspaces}},
		ServiceTokens: []prismasim.ServiceToken{
			{WorkspaceID: partnerWorkspace, Name: "Sample app", Value: state.ServiceToken},
		},
	}
}
