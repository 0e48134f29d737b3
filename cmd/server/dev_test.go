package main_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// devInfo is what dev.json tells.
type devInfo struct {
	PublicURL            string   `json:"publicUrl"`
	APIKey               string   `json:"apiKey"`
	AdminURL             string   `json:"adminUrl"`
	AdminEmail           string   `json:"adminEmail"`
	AdminPassword        string   `json:"adminPassword"`
	DatabaseURL          string   `json:"databaseUrl"`
	PrismaAPIURL         string   `json:"prismaApiUrl"`
	PrismaAuthURL        string   `json:"prismaAuthUrl"`
	SimulatorURL         string   `json:"simulatorUrl"`
	SampleAppURL         string   `json:"sampleAppUrl"`
	PrismaClientID       string   `json:"prismaClientId"`
	PrismaPublicClientID string   `json:"prismaPublicClientId"`
	ServiceToken         string   `json:"serviceToken"`
	WorkspaceIDs         []string `json:"workspaceIds"`
}

// dev is a running `dev`.
type dev struct {
	*process
	devInfo
	dir   string
	ready time.Duration // how long it took, as it says itself
}

// devOptions are what a test may want different.
type devOptions struct {
	dir   string              // "": a new one
	env   []string            // such as DATABASE_URL; without it dev has its own Postgres
	as    *syscall.Credential // nil: as this process
	ports *devPorts           // nil: any free ones
}

// devPorts are addresses that stay the same over a restart.
type devPorts struct{ service, simulator, sample string }

// dataDir returns a directory that a Postgres of another account can be in: the
// parent that the testing package makes is closed to others.
func dataDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, open := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(open, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// startDev runs `dev` and waits until it says that all is ready.
func startDev(tb testing.TB, with devOptions) *dev {
	tb.Helper()
	if with.dir == "" {
		with.dir = dataDir(tb)
	}
	if with.ports == nil {
		with.ports = &devPorts{service: "127.0.0.1:0", simulator: "127.0.0.1:0", sample: "127.0.0.1:0"}
	}
	d := &dev{dir: with.dir}
	d.process = start(tb, launch{
		args: []string{
			"dev", "--data-dir", with.dir, "--listen", with.ports.service,
			"--simulator-listen", with.ports.simulator, "--sample-listen", with.ports.sample,
		},
		env: with.env, as: with.as,
	})
	ctx, cancel := context.WithTimeout(tb.Context(), startLimit)
	defer cancel()
	readyLine := regexp.MustCompile(`^Connect Prisma is ready \(([0-9.]+) s\)\.`)
	line, err := d.stdout.await(ctx, readyLine.MatchString)
	if err != nil {
		tb.Fatalf("dev does not become ready: %v\nstdout:\n%s\nstderr:\n%s", err, d.stdout.tail(), d.stderr.tail())
	}
	seconds, err := strconv.ParseFloat(readyLine.FindStringSubmatch(line)[1], 64)
	if err != nil {
		tb.Fatal(err)
	}
	d.ready = time.Duration(seconds * float64(time.Second))
	content, err := os.ReadFile(filepath.Join(with.dir, "dev.json"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(content, &d.devInfo); err != nil {
		tb.Fatalf("dev.json: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			log, _ := os.ReadFile(filepath.Join(with.dir, "server.log")) // missing: there is nothing to show
			tb.Logf("the end of server.log:\n%s", log[max(0, len(log)-6000):])
		}
	})
	return d
}

// fixedPorts picks three free ports outside the range from which the system gives
// them to clients, so that they are still free after a restart.
func fixedPorts(tb testing.TB) *devPorts {
	tb.Helper()
	free := func() string {
		for range 100 {
			address := "127.0.0.1:" + strconv.Itoa(10000+rand.IntN(12000))
			listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", address)
			if err != nil {
				continue
			}
			if err := listener.Close(); err != nil {
				tb.Fatal(err)
			}
			return address
		}
		tb.Fatal("no free port")
		return ""
	}
	return &devPorts{service: free(), simulator: free(), sample: free()}
}

// settings are the lines of serve.env.
func (d *dev) settings(tb testing.TB) []string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(d.dir, "serve.env"))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n")
}

// control calls the simulator's control interface and decodes its answer into
// answer, unless that is nil.
func (d *dev) control(tb testing.TB, method, name string, body, answer any) {
	tb.Helper()
	status, raw := sendJSON(tb, method, d.SimulatorURL+"/_control/"+name, "", body)
	if status != http.StatusOK {
		tb.Fatalf("%s /_control/%s: status %d: %s", method, name, status, raw)
	}
	if answer != nil {
		if err := json.Unmarshal(raw, answer); err != nil {
			tb.Fatalf("%s /_control/%s: %v", method, name, err)
		}
	}
}

// advance moves the clocks of the simulator and of the service's database.
func (d *dev) advance(tb testing.TB, by time.Duration) {
	tb.Helper()
	d.control(tb, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
}

// ledger is what the simulator counted.
type ledger struct {
	Counters struct {
		CodeExchanges, Refreshes, Replays, Revocations, APIRequests int
	}
	RefreshTokens []struct {
		ID, Grant, State              string
		Received, Processed, Answered int
	}
}

func (d *dev) ledger(tb testing.TB) ledger {
	tb.Helper()
	var l ledger
	d.control(tb, http.MethodGet, "ledger", nil, &l)
	return l
}

// port returns the port of a database URL or origin.
func port(tb testing.TB, raw string) string {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil || u.Port() == "" {
		tb.Fatal("that URL has no port")
	}
	return u.Port()
}
