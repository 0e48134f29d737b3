package processtest

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
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

// The workspaces that everybody has in dev's Prisma.
const (
	FirstWorkspace  = "Ada’s workspace"
	SecondWorkspace = "Moonshot Labs"
)

// DevInfo is what dev.json tells.
type DevInfo struct {
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

// Dev is a running `dev`.
type Dev struct {
	*Process
	DevInfo
	Dir   string
	Ready time.Duration // how long it took, as it says itself
}

// DevOptions are what a test may want different.
type DevOptions struct {
	Dir   string              // "": a new one
	Env   []string            // such as DATABASE_URL; without it dev has its own Postgres
	As    *syscall.Credential // nil: as this process
	Ports *DevPorts           // nil: any free ones
}

// DevPorts are addresses that stay the same over a restart.
type DevPorts struct{ Service, Simulator, Sample string }

// DataDir returns a directory that a Postgres of another account can be in: the
// parent that the testing package makes is closed to others.
func DataDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, open := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(open, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// StartDev runs `dev` and waits until it says that all is ready.
func StartDev(tb testing.TB, with DevOptions) *Dev {
	tb.Helper()
	if with.Dir == "" {
		with.Dir = DataDir(tb)
	}
	if with.Ports == nil {
		with.Ports = &DevPorts{Service: "127.0.0.1:0", Simulator: "127.0.0.1:0", Sample: "127.0.0.1:0"}
	}
	d := &Dev{Dir: with.Dir}
	d.Process = Start(tb, Launch{
		Args: []string{
			"dev", "--data-dir", with.Dir, "--listen", with.Ports.Service,
			"--simulator-listen", with.Ports.Simulator, "--sample-listen", with.Ports.Sample,
		},
		Env: with.Env, As: with.As,
	})
	ctx, cancel := context.WithTimeout(tb.Context(), StartLimit)
	defer cancel()
	readyLine := regexp.MustCompile(`^Connect Prisma is ready \(([0-9.]+) s\)\.`)
	line, err := d.Stdout.Await(ctx, readyLine.MatchString)
	if err != nil {
		tb.Fatalf("dev does not become ready: %v\nstdout:\n%s\nstderr:\n%s", err, d.Stdout.Tail(), d.Stderr.Tail())
	}
	seconds, err := strconv.ParseFloat(readyLine.FindStringSubmatch(line)[1], 64)
	if err != nil {
		tb.Fatal(err)
	}
	d.Ready = time.Duration(seconds * float64(time.Second))
	content, err := os.ReadFile(filepath.Join(with.Dir, "dev.json"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(content, &d.DevInfo); err != nil {
		tb.Fatalf("dev.json: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			log, _ := os.ReadFile(filepath.Join(with.Dir, "server.log")) // missing: there is nothing to show
			tb.Logf("the end of server.log:\n%s", log[max(0, len(log)-6000):])
		}
	})
	return d
}

// FixedPorts picks three free ports outside the range from which the system gives
// them to clients, so that they are still free after a restart.
func FixedPorts(tb testing.TB) *DevPorts {
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
	return &DevPorts{Service: free(), Simulator: free(), Sample: free()}
}

// Settings are the lines of serve.env.
func (d *Dev) Settings(tb testing.TB) []string {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(d.Dir, "serve.env"))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n")
}

// Port returns the port of a database URL or origin.
func Port(tb testing.TB, raw string) string {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil || u.Port() == "" {
		tb.Fatal("that URL has no port")
	}
	return u.Port()
}
