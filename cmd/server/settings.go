package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// The environments whose databases may move their clock, and which may talk to a
// Prisma that is not behind TLS.
const (
	environmentDevelopment = "development"
	environmentTest        = "test"
)

// leastLedgerRetention is the life of a refresh token.
const leastLedgerRetention = 90 * 24 * time.Hour

// settings is what the environment says. Each secret may instead stand in a file
// that NAME_FILE names.
type settings struct {
	DatabaseURL        string `env:"DATABASE_URL"`         // as connect_app; required
	MigrateDatabaseURL string `env:"MIGRATE_DATABASE_URL"` // as the owner; default DATABASE_DIRECT_URL, then DATABASE_URL
	DatabaseDirectURL  string `env:"DATABASE_DIRECT_URL"`  // past a pooler, for jobs; default DATABASE_URL
	Environment        string `env:"ENVIRONMENT"`          // such as "production"; required
	ListenAddr         string `env:"LISTEN_ADDR" envDefault:":8080"`
	PublicURL          string `env:"PUBLIC_URL"` // origin that browsers reach the service by; required
	PrismaAPIURL       string `env:"PRISMA_API_URL" envDefault:"https://api.prisma.io"`
	PrismaAuthURL      string `env:"PRISMA_AUTH_URL" envDefault:"https://auth.prisma.io"`
	PrismaClientID     string `env:"PRISMA_CLIENT_ID"`          // the shared client of tenants made with --shared-client
	PrismaClientSecret string `env:"PRISMA_CLIENT_SECRET"`      // its secret; "" for a public client
	PrismaNextSecret   string `env:"PRISMA_CLIENT_NEXT_SECRET"` // the one that is about to replace it at Prisma
	CookieKeys         string `env:"COOKIE_KEYS"`               // required; `secrets generate` prints them
	TokenKeyset        string `env:"TOKEN_KEYSET"`              // required; `secrets generate` prints it
	SpoolDir           string `env:"SPOOL_DIR"`                 // keeps token pairs that the database can't take; "": none
	LogLevel           string `env:"LOG_LEVEL" envDefault:"info"`
	Operator           string `env:"OPERATOR"`                    // whose commands these are, in the audit log; default: who the system says
	TrustedHops        int    `env:"TRUSTED_HOPS" envDefault:"0"` // proxies that add to X-Forwarded-For

	// How long readiness is off, at the end, before connections are refused: as long
	// as a balancer needs to notice.
	DrainDelay time.Duration `env:"DRAIN_DELAY" envDefault:"0s"`

	// How old a row of the refresh ledger gets before it is folded: the life of a
	// refresh token at least, so that no fold holds what a replay is told by. Settings
	// that dev makes for itself leave it 0.
	LedgerRetention time.Duration `env:"LEDGER_RETENTION" envDefault:"2160h"`

	Refresh refreshSettings
}

// refreshSettings are the numbers of the token refresh; prisma.RefreshSettings and
// tenants.Config say what each is for. One that is 0 takes its default, which only the
// settings that dev makes for itself may be, and those whose default is 0.
type refreshSettings struct {
	From         float64       `env:"REFRESH_FROM" envDefault:"0.75"` // shares of an access token's life
	To           float64       `env:"REFRESH_TO" envDefault:"0.85"`
	Margin       time.Duration `env:"REFRESH_MARGIN" envDefault:"60s"`
	RefusalAge   time.Duration `env:"REFRESH_REFUSAL_AGE" envDefault:"60s"`
	CallerWait   time.Duration `env:"REFRESH_CALLER_WAIT" envDefault:"15s"`
	Waiters      int           `env:"REFRESH_WAITERS" envDefault:"1000"`
	Exchanges    int           `env:"REFRESH_EXCHANGES" envDefault:"8"`
	Lease        time.Duration `env:"REFRESH_LEASE" envDefault:"180s"`
	Dial         time.Duration `env:"REFRESH_DIAL" envDefault:"2s"`
	TLS          time.Duration `env:"REFRESH_TLS" envDefault:"3s"`
	Answer       time.Duration `env:"REFRESH_ANSWER" envDefault:"60s"`
	Write        time.Duration `env:"REFRESH_WRITE" envDefault:"90s"`
	Stall        time.Duration `env:"REFRESH_STALL" envDefault:"25s"`
	SendGuard    time.Duration `env:"REFRESH_SEND_GUARD" envDefault:"5s"`
	WriteAttempt time.Duration `env:"REFRESH_WRITE_ATTEMPT" envDefault:"10s"`
	SaveFrom     time.Duration `env:"REFRESH_SAVE_FROM" envDefault:"50ms"`
	SaveTo       time.Duration `env:"REFRESH_SAVE_TO" envDefault:"2s"`
	PollFrom     time.Duration `env:"REFRESH_POLL_FROM" envDefault:"50ms"`
	PollTo       time.Duration `env:"REFRESH_POLL_TO" envDefault:"400ms"`
	BackoffFrom  time.Duration `env:"REFRESH_BACKOFF_FROM" envDefault:"1s"`
	BackoffTo    time.Duration `env:"REFRESH_BACKOFF_TO" envDefault:"30s"`
	BreakerAfter int           `env:"REFRESH_BREAKER_AFTER" envDefault:"3"`
	BreakerSlow  time.Duration `env:"REFRESH_BREAKER_SLOW" envDefault:"5s"`
	BreakerFrom  time.Duration `env:"REFRESH_BREAKER_FROM" envDefault:"5s"`
	BreakerTo    time.Duration `env:"REFRESH_BREAKER_TO" envDefault:"30s"`
	SuspectPause time.Duration `env:"REFRESH_SUSPECT_PAUSE" envDefault:"5s"`
	LateFrom     time.Duration `env:"REFRESH_LATE_FROM" envDefault:"1m"`
	LateTo       time.Duration `env:"REFRESH_LATE_TO" envDefault:"1h"`
	Hold         time.Duration `env:"REFRESH_HOLD" envDefault:"30s"`
	Leeway       time.Duration `env:"REFRESH_LEEWAY" envDefault:"0s"`
	KeepAlive    time.Duration `env:"REFRESH_KEEP_ALIVE" envDefault:"1440h"` // 60 days
}

// settingNames are the variables that loadSettings reads; secret ones also as
// NAME_FILE.
func settingNames() (plain, secret []string) {
	plain = []string{
		"ENVIRONMENT", "LISTEN_ADDR", "PUBLIC_URL", "PRISMA_API_URL", "PRISMA_AUTH_URL",
		"PRISMA_CLIENT_ID", "SPOOL_DIR", "LOG_LEVEL", "TRUSTED_HOPS", "DRAIN_DELAY",
		"LEDGER_RETENTION", "OPERATOR",
	}
	secret = []string{
		"DATABASE_URL", "MIGRATE_DATABASE_URL", "DATABASE_DIRECT_URL",
		"PRISMA_CLIENT_SECRET", "PRISMA_CLIENT_NEXT_SECRET", "COOKIE_KEYS", "TOKEN_KEYSET",
	}
	return append(plain, refreshNames()...), secret
}

// loadSettings reads the environment through getenv. An error names one variable
// and never quotes a value.
func loadSettings(getenv func(string) string) (settings, error) {
	plain, secret := settingNames()
	values := make(map[string]string)
	for _, name := range plain {
		if v := getenv(name); v != "" {
			values[name] = v
		}
	}
	for _, name := range secret {
		v, err := readSecret(getenv, name)
		if err != nil {
			return settings{}, err
		}
		if v != "" {
			values[name] = v
		}
	}
	var s settings
	if err := env.ParseWithOptions(&s, env.Options{Environment: values}); err != nil {
		return settings{}, describeParseError(err)
	}
	if err := s.Refresh.refuseZero(); err != nil {
		return settings{}, err
	}
	// Past a pooler if there is a way: migrations run under a session lock.
	s.MigrateDatabaseURL = cmp.Or(s.MigrateDatabaseURL, s.DatabaseDirectURL, s.DatabaseURL)
	s.PublicURL = strings.TrimSuffix(s.PublicURL, "/")
	return s, nil
}

func readSecret(getenv func(string) string, name string) (string, error) {
	value, file := getenv(name), getenv(name+"_FILE")
	if file == "" {
		return value, nil
	}
	if value != "" {
		return "", fmt.Errorf("%s and %s_FILE are both set; keep one", name, name)
	}
	content, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("%s_FILE can't be read: %w", name, err)
	}
	return strings.TrimSpace(string(content)), nil
}

// require returns an error that names the first variable that is not set.
func (s settings) require(names ...string) error {
	set := map[string]string{
		"DATABASE_URL": s.DatabaseURL, "MIGRATE_DATABASE_URL": s.MigrateDatabaseURL, "ENVIRONMENT": s.Environment,
		"PUBLIC_URL": s.PublicURL, "COOKIE_KEYS": s.CookieKeys, "TOKEN_KEYSET": s.TokenKeyset,
	}
	for _, name := range names {
		if set[name] == "" {
			hint := ""
			if name == "COOKIE_KEYS" || name == "TOKEN_KEYSET" {
				hint = "; `server secrets generate` prints one"
			}
			return fmt.Errorf("%s is not set%s", name, hint)
		}
	}
	return nil
}

// checkServe refuses what the service must not run with.
func (s settings) checkServe() error {
	if err := s.require("DATABASE_URL", "ENVIRONMENT", "PUBLIC_URL", "COOKIE_KEYS", "TOKEN_KEYSET"); err != nil {
		return err
	}
	if err := checkOrigin("PUBLIC_URL", s.PublicURL, false); err != nil {
		return err
	}
	if s.DrainDelay < 0 || s.DrainDelay > time.Minute {
		return errors.New("DRAIN_DELAY must be between 0s and 1m")
	}
	if err := s.Refresh.check(); err != nil {
		return err
	}
	if s.PrismaNextSecret != "" && s.PrismaClientSecret == "" {
		return errors.New("PRISMA_CLIENT_NEXT_SECRET is set, and there is no PRISMA_CLIENT_SECRET that it could replace")
	}
	if s.LedgerRetention != 0 && s.LedgerRetention < leastLedgerRetention {
		return errors.New("LEDGER_RETENTION must be 2160h or more: so long lives a refresh token")
	}
	if err := checkOrigin("PRISMA_API_URL", s.PrismaAPIURL, s.relaxed()); err != nil {
		return err
	}
	return checkOrigin("PRISMA_AUTH_URL", s.PrismaAuthURL, s.relaxed())
}

// relaxed reports whether Prisma may be reached by plain http.
func (s settings) relaxed() bool {
	return s.Environment == environmentDevelopment || s.Environment == environmentTest
}

// checkOrigin takes https origins, and http ones on loopback, where browsers keep
// __Host- cookies all the same and nobody listens in.
func checkOrigin(name, raw string, plainAllowed bool) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		(u.Path != "" && u.Path != "/") {
		return fmt.Errorf("%s must be an origin such as https://connect.example.com", name)
	}
	if u.Scheme == "https" || u.Scheme == "http" && (plainAllowed || loopback(u.Hostname())) {
		return nil
	}
	return fmt.Errorf("%s must be https; plain http works on loopback only", name)
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (s settings) keyset() (*sealing.Keyset, error) {
	keyset, err := sealing.Parse(s.TokenKeyset, s.Environment)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_KEYSET: %w", err)
	}
	return keyset, nil
}

func (s settings) cookieKeys() ([]sealing.CookieKeys, error) {
	pairs, err := sealing.ParseCookieKeys(s.CookieKeys)
	if err != nil {
		return nil, fmt.Errorf("COOKIE_KEYS: %w", err)
	}
	return pairs, nil
}

func (s settings) sharedClient() *tenants.OAuthClient {
	if s.PrismaClientID == "" {
		return nil
	}
	client := &tenants.OAuthClient{ID: s.PrismaClientID, Secret: s.PrismaClientSecret}
	if s.PrismaNextSecret != s.PrismaClientSecret { // equal at the end of a rotation
		client.NextSecret = s.PrismaNextSecret
	}
	return client
}
