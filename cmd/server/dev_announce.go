package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// devFile is dev.json: what scripts need to know of a running dev.
type devFile struct {
	PublicURL            string   `json:"publicUrl"`
	APIKey               string   `json:"apiKey"` // with every scope
	AdminURL             string   `json:"adminUrl"`
	AdminEmail           string   `json:"adminEmail"`
	AdminPassword        string   `json:"adminPassword"`
	DatabaseURL          string   `json:"databaseUrl"` // as connect_app
	PrismaAPIURL         string   `json:"prismaApiUrl"`
	PrismaAuthURL        string   `json:"prismaAuthUrl"`
	SimulatorURL         string   `json:"simulatorUrl"`
	SampleAppURL         string   `json:"sampleAppUrl"`
	PrismaClientID       string   `json:"prismaClientId"`
	PrismaPublicClientID string   `json:"prismaPublicClientId"` // for SDKs: any loopback redirect
	ServiceToken         string   `json:"serviceToken"`         // of the partner's own workspace
	WorkspaceIDs         []string `json:"workspaceIds"`         // that a user can choose
}

// announcement is the file whose being there says that everything is ready.
func (cmd *devCommand) announcement() string { return filepath.Join(cmd.DataDir, "dev.json") }

// withdraw removes it: whoever waits for it must not find that of an earlier start.
func (cmd *devCommand) withdraw() error {
	if err := os.Remove(cmd.announcement()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// announce waits until everything answers, writes dev.json and serve.env, and
// tells people what to do next.
func (d *development) announce(ctx context.Context, began time.Time) error {
	file := devFile{
		PublicURL: d.settings.PublicURL, APIKey: d.state.APIKey,
		AdminURL: d.settings.PublicURL + "/admin", AdminEmail: devAdminEmail, AdminPassword: d.state.AdminPassword,
		DatabaseURL: d.db.App, PrismaAPIURL: d.settings.PrismaAPIURL, PrismaAuthURL: d.settings.PrismaAuthURL,
		SimulatorURL: d.simulatorURL(), SampleAppURL: localURL(d.listeners.sample),
		PrismaClientID: devClientID, PrismaPublicClientID: devPublicClientID,
		ServiceToken: d.state.ServiceToken, WorkspaceIDs: devWorkspaces(),
	}
	for _, url := range []string{
		file.PublicURL + "/readyz", file.SimulatorURL + "/.well-known/oauth-authorization-server", file.SampleAppURL + "/",
	} {
		if err := waitFor(ctx, url); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopped before it was ready, which is no failure
	}
	if err := writeFile(filepath.Join(d.cmd.DataDir, "serve.env"), d.settings.environment()); err != nil {
		return err
	}
	content, err := json.MarshalIndent(file, "", "  ") //nolint:gosec // G117: this file hands them out
	if err != nil {
		return err
	}
	if err := writeFile(d.cmd.announcement(), append(content, '\n')); err != nil {
		return err
	}
	d.console.printf(`Connect Prisma is ready (%.1f s).

  Sample app   %s      choose a user, press "Connect Prisma"
  Dashboard    %s     %s  %s
  Reference    %s/docs      every call of the API, to read and to try
  Simulator    %s      stands in for Prisma

Try the API:

  curl -H "Authorization: Bearer %s" %s/v1/connections

Everything a script needs is in %s, the log in server.log beside it.
Ctrl-C stops it all; the data stays.
`, time.Since(began).Seconds(), file.SampleAppURL, file.AdminURL, file.AdminEmail, file.AdminPassword, file.PublicURL, file.SimulatorURL,
		file.APIKey, file.PublicURL, d.cmd.announcement())
	return nil
}

// waitFor asks a URL of our own until it answers.
func waitFor(ctx context.Context, url string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err == nil {
			_ = response.Body.Close() // only the answer matters
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // somebody stopped dev before it was ready
		case <-limit.C:
			return errors.Join(fmt.Errorf("%s does not answer", url), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// environment writes the settings as an environment file: one NAME=value a line,
// values as they are, as `docker --env-file` reads it. A shell does too, unless a
// DATABASE_URL of the user's own has an ampersand.
func (s settings) environment() []byte {
	var b strings.Builder
	for _, line := range [][2]string{
		{"DATABASE_URL", s.DatabaseURL},
		{"MIGRATE_DATABASE_URL", s.MigrateDatabaseURL},
		{"ENVIRONMENT", s.Environment},
		{"LISTEN_ADDR", s.ListenAddr},
		{"PUBLIC_URL", s.PublicURL},
		{"PRISMA_API_URL", s.PrismaAPIURL},
		{"PRISMA_AUTH_URL", s.PrismaAuthURL},
		{"PRISMA_CLIENT_ID", s.PrismaClientID},
		{"PRISMA_CLIENT_SECRET", s.PrismaClientSecret},
		{"COOKIE_KEYS", s.CookieKeys},
		{"TOKEN_KEYSET", s.TokenKeyset},
		{"SPOOL_DIR", s.SpoolDir},
		{"LOG_LEVEL", s.LogLevel},
	} {
		b.WriteString(line[0] + "=" + line[1] + "\n")
	}
	return []byte(b.String())
}
