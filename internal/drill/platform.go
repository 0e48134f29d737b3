package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/prismasim"
)

// weather is what happens to token requests on their way, beside the simulator's own
// faults. Requests of authorization codes, which the drill itself makes, are spared.
type weather struct {
	jitter time.Duration // each answer comes up to this late: a part before Prisma acts, a part after
	hang   time.Duration // each answer comes this much late, after Prisma has acted
	cut    bool          // the connection ends before Prisma acts
}

// platform is the simulator on a port, with the weather in front of it.
type platform struct {
	sim    *prismasim.Simulator
	url    string
	server *http.Server
	dice   *dice

	refreshes atomic.Int64 // token requests with a refresh token that came in
	inFlight  atomic.Int64
	refusals  atomic.Int64 // 401 of the Management API

	mu      sync.Mutex
	weather weather
	secrets map[string]bool   // every token that was issued, for the search of the logs
	shown   map[string]int    // how often each refresh token came in
	next    map[string]string // which refresh token was answered with which, whole and to a client that was there
}

// openPlatform starts the simulator. Its databases, of which the drill makes none,
// would lie on that server.
func openPlatform(ctx context.Context, adminURL string, seed prismasim.Seed, dice *dice) (*platform, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the simulator: %w", err)
	}
	p := &platform{url: "http://" + listener.Addr().String(), dice: dice, secrets: make(map[string]bool), next: make(map[string]string), shown: make(map[string]int)}
	p.sim, err = prismasim.New(ctx, prismasim.Config{URL: p.url, DatabaseURL: adminURL, Seed: seed})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the simulator: %w", err), listener.Close())
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(listener) }() // ends with close
	return p, nil
}

func (p *platform) close(ctx context.Context) error {
	return errors.Join(p.server.Close(), p.sim.Close(ctx))
}

// set changes the weather.
func (p *platform) set(w weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
}

func (p *platform) now() weather {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weather
}

// ServeHTTP lets the weather act on token requests and passes everything to the
// simulator.
func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/token" {
		watched := &statusWriter{ResponseWriter: w}
		p.sim.ServeHTTP(watched, r)
		if watched.status == http.StatusUnauthorized && strings.HasPrefix(r.URL.Path, "/v1/") {
			p.refusals.Add(1)
		}
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := &tokenWriter{ResponseWriter: w, request: r}
	form, err := url.ParseQuery(string(body))
	if err == nil && form.Get("grant_type") == "refresh_token" {
		p.refreshes.Add(1)
		p.present(form.Get("refresh_token"))
		p.inFlight.Add(1)
		defer p.inFlight.Add(-1)
		now := p.now()
		if now.cut {
			hangUp(w)
			return
		}
		before, after := p.dice.split(now.jitter)
		if pause(r.Context(), before) != nil {
			return // its client left before Prisma knew of it
		}
		answer.late = after + now.hang
	}
	p.sim.ServeHTTP(answer, r)
	p.remember(answer, form.Get("refresh_token"))
}

// remember notes the tokens of an answer, and whose successors they are if it was sent
// whole. The simulator's own count of answers is short of those whose client, having read
// them, hangs up faster than that can be noticed.
func (p *platform) remember(answer *tokenWriter, presented string) {
	var tokens struct {
		Access  string `json:"access_token"`  //nolint:tagliatelle // RFC 6749
		Refresh string `json:"refresh_token"` //nolint:tagliatelle // RFC 6749
	}
	if json.Unmarshal(answer.body.Bytes(), &tokens) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, token := range []string{tokens.Access, tokens.Refresh} {
		if token != "" {
			p.secrets[token] = true
		}
	}
	if presented != "" && tokens.Refresh != "" && !answer.broken {
		p.next[presented] = tokens.Refresh
	}
}

// present counts a refresh token that came in, whatever the weather makes of it.
func (p *platform) present(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown[token]++
}

// fate tells how often the token that came so many exchanges after a grant's first one
// was presented, and whether that was answered. It knows no token that came of an answer
// which was not sent, and which therefore nobody has.
func (p *platform) fate(first string, after int) (presented int, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range after {
		first = p.next[first]
	}
	return p.shown[first], p.next[first] != ""
}

// issued lists the tokens issued so far.
func (p *platform) issued() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]string, 0, len(p.secrets))
	for token := range p.secrets {
		list = append(list, token)
	}
	return list
}

// idle waits until no token request has been under way for that long.
func (p *platform) idle(ctx context.Context, quiet time.Duration) error {
	const look = 20 * time.Millisecond
	for still := time.Duration(0); still < quiet; still += look {
		if p.inFlight.Load() > 0 {
			still = 0
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
	return nil
}

// control sends a request to the simulator's control interface.
func (p *platform) control(ctx context.Context, method, path string, body, result any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode a control request: %w", err)
	}
	if body == nil {
		text = nil
	}
	request, err := http.NewRequestWithContext(ctx, method, p.url+"/_control/"+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("make a control request: %w", err)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("control the simulator: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the simulator answers %s /_control/%s with %d", method, path, response.StatusCode)
	}
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		return fmt.Errorf("read the simulator's answer: %w", err)
	}
	return nil
}

// faults sets the simulator's own faults of the token endpoint.
func (p *platform) faults(ctx context.Context, failBefore, failAfter, dropAfter float64, leeway time.Duration) error {
	return p.control(ctx, http.MethodPut, "faults", map[string]any{
		"tokenFailBefore": failBefore, "tokenFailAfter": failAfter, "tokenDropAfter": dropAfter, "leeway": leeway.String(),
	}, nil)
}

// mix is the drill's everyday weather: 2 % refused with 503 before anything is done, 1 %
// answered 500 and 1 % cut after all was done, and up to 300 ms of delay.
func (p *platform) mix(ctx context.Context) error {
	p.set(weather{jitter: 300 * time.Millisecond})
	return p.faults(ctx, 0.02, 0.01, 0.01, 0)
}

// calm ends all faults.
func (p *platform) calm(ctx context.Context) error {
	p.set(weather{})
	return p.faults(ctx, 0, 0, 0, 0)
}

// tokenWriter passes an answer on late, and keeps a copy of it.
type tokenWriter struct {
	http.ResponseWriter

	request *http.Request
	late    time.Duration
	body    bytes.Buffer
	broken  bool // it did not go out whole, or to nobody
}

// WriteHeader waits first: Prisma has acted by now, and its client does not know.
func (t *tokenWriter) WriteHeader(status int) {
	_ = pause(t.request.Context(), t.late) // a client that left needs no answer
	t.ResponseWriter.WriteHeader(status)
}

// Write copies.
func (t *tokenWriter) Write(b []byte) (int, error) {
	gone := t.request.Context().Err() != nil
	n, err := t.ResponseWriter.Write(b)
	t.body.Write(b[:n])
	t.broken = t.broken || gone || err != nil
	return n, err
}

// Unwrap lets the simulator flush and cut.
func (t *tokenWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// statusWriter notes the status.
type statusWriter struct {
	http.ResponseWriter

	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets the simulator flush and cut.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// hangUp ends a connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close() // it is being broken
	}
}

// pause waits; its error is ctx's.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
