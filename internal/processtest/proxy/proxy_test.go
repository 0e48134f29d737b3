// Package proxy_test runs replicas behind nginx, with the configuration of deploy.
package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/processtest"
)

// site is two replicas behind nginx, and Prisma.
type site struct {
	*processtest.World

	nginx      *processtest.Process
	replicas   [2]*processtest.Replica
	connection string // the address of one, with the proxy's

	lines    chan string   // what Prisma writes into the log that somebody reads
	received chan struct{} // one for each mebibyte of a body that Prisma has got
	large    []byte        // what Prisma answers to a list of databases
	cut      chan struct{} // one in it: the next such answer breaks off
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{lines: make(chan string), received: make(chan struct{}, 64), cut: make(chan struct{}, 1), large: bytes.Repeat([]byte("0123456789abcdef"), 3<<20>>4)}
	s.World = processtest.NewWorld(t, func(in *processtest.Installation) {
		in.Values["TRUSTED_HOPS"] = "1"
		in.Values["PRISMA_API_URL"] = s.prisma(t, in.Values["PRISMA_API_URL"])
	})
	s.APIKey = s.Installation.Command(t, "", "key", "create", "--scopes", "read,write,connect,passthrough", s.Tenant)
	env := s.Installation.With(nil)
	s.replicas = [2]*processtest.Replica{processtest.StartServe(t, env), processtest.StartServe(t, env)}
	s.nginx = startNginx(t, s.Installation.Public, s.replicas)
	s.connection = s.PublicURL + "/v1/connections/" + s.Connect(t, "ada").ID
	return s
}

// prisma is the simulator, but for what it can't be told to do.
func (s *site) prisma(t *testing.T, simulator string) string {
	t.Helper()
	to, err := url.Parse(simulator)
	if err != nil {
		t.Fatal(err)
	}
	rest := httputil.NewSingleHostReverseProxy(to)
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.HandleFunc("GET /v1/builds/{id}/logs", s.writeLog)
	mux.HandleFunc("POST /v1/projects", s.takeBody)
	mux.HandleFunc("GET /v1/databases", s.answerAtLength)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func (s *site) writeLog(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w).Flush
	for err := flush(); err == nil; err = flush() {
		select {
		case line := <-s.lines:
			_, _ = io.WriteString(w, line) // flush tells of a client that is gone
		case <-r.Context().Done():
			return
		}
	}
}

func (s *site) takeBody(w http.ResponseWriter, r *http.Request) {
	part := make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(r.Body, part); err != nil {
			break
		}
		s.received <- struct{}{}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"data":{}}`)
}

// answerAtLength sends an answer without a length, as Prisma does.
func (s *site) answerAtLength(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	half := len(s.large) / 2
	_, _ = w.Write(s.large[:half])
	_ = http.NewResponseController(w).Flush() // the next write tells
	select {
	case <-s.cut:
		panic(http.ErrAbortHandler)
	default:
		_, _ = w.Write(s.large[half:])
	}
}

// answer is what came of a request. err says why its body ended early.
type answer struct {
	status int
	body   []byte
	err    error
}

// send sends a request through the proxy.
func (s *site) send(t *testing.T, client *http.Client, method, target string, body io.Reader) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.APIKey)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Forwarded-For", "203.0.113.9") // an invention
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got := answer{status: response.StatusCode}
	got.body, got.err = io.ReadAll(response.Body)
	return got
}

// TestBehindNginx sends everything that a proxy could get wrong through the one whose
// configuration we hand out.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	s := newSite(t) // a user has gone through the flow by now: pages, forms, cookies, redirects
	s.logs(t)
	s.upload(t)
	s.tooLarge(t)
	s.longAnswers(t)
	s.clientAddress(t)
	s.replicaDies(t)
	access := stopNginx(t, s.nginx)
	for _, secret := range []string{"code=", "state=", "completionCode=", s.APIKey, "?"} {
		if strings.Contains(access, secret) {
			t.Errorf("nginx logs %q:\n%s", secret, access)
		}
	}
	if !strings.Contains(access, " GET /connect/- 200 ") || !strings.Contains(access, " POST /connect/- 303 ") {
		t.Errorf("nginx logs no visit to a one-time link:\n%s", access)
	}
}

// logs come line by line.
func (s *site) logs(t *testing.T) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.connection+"/prisma/v1/builds/build_1/logs", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.APIKey)
	response, err := processtest.PlainClient().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("a log: status %d", response.StatusCode)
	}
	read := bufio.NewReader(response.Body)
	for range 3 { // the next is only written once the one before has arrived
		select {
		case s.lines <- "{\"line\":1}\n":
		case <-time.After(processtest.CallLimit):
			t.Fatal("Prisma's log has no reader")
		}
		if line, err := read.ReadString('\n'); err != nil || line != "{\"line\":1}\n" {
			t.Fatalf("the log has %q, %v", line, err)
		}
	}
}

// upload sends a body, which is passed on as it comes.
func (s *site) upload(t *testing.T) {
	t.Helper()
	const mebibytes = 9
	from, to := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		for range mebibytes {
			if _, err := to.Write(make([]byte, 1<<20)); err != nil {
				sent <- err
				return
			}
			select {
			case <-s.received: // Prisma has this part before the next is sent
			case <-time.After(processtest.CallLimit / 2):
				sent <- errors.New("it is held back")
				_ = to.CloseWithError(errors.New("given up")) // and so is the request
				return
			}
		}
		sent <- to.Close()
	}()
	got := s.send(t, processtest.PlainClient(), http.MethodPost, s.connection+"/prisma/v1/projects", from)
	if err := <-sent; err != nil || got.status != http.StatusOK {
		t.Errorf("a body of 9 MiB: %d, %v", got.status, err)
	}
}

// tooLarge sends a body that the service refuses, not the proxy.
func (s *site) tooLarge(t *testing.T) {
	t.Helper()
	body := bytes.NewReader(make([]byte, 10<<20+1))
	got := s.send(t, processtest.PlainClient(), http.MethodPost, s.connection+"/prisma/v1/projects", body)
	var problem struct{ Type, RequestID string }
	if err := json.Unmarshal(got.body, &problem); err != nil || got.status != http.StatusRequestEntityTooLarge ||
		!strings.HasSuffix(problem.Type, "/problems/invalid-request") || problem.RequestID == "" {
		t.Errorf("a body above 10 MiB: %d %+v, %v", got.status, problem, err)
	}
}

// longAnswers arrive whole, or look as broken as they are.
func (s *site) longAnswers(t *testing.T) {
	t.Helper()
	list := s.connection + "/prisma/v1/databases"
	if got := s.send(t, processtest.PlainClient(), http.MethodGet, list, nil); got.err != nil || !bytes.Equal(got.body, s.large) {
		t.Errorf("%d, %d bytes of %d, %v", got.status, len(got.body), len(s.large), got.err)
	}
	s.cut <- struct{}{}
	if got := s.send(t, processtest.PlainClient(), http.MethodGet, list, nil); got.err == nil {
		t.Errorf("%d, %d bytes of an answer that broke off look whole", got.status, len(got.body))
	}
}

// clientAddress is the client's in the audit log: neither nginx's nor an invention.
func (s *site) clientAddress(t *testing.T) {
	t.Helper()
	client := "127.0.0.1"
	if runtime.GOOS == "linux" { // where the whole of 127.0.0.0/8 is this machine
		client = "127.0.0.2" // another than nginx has
	}
	s.send(t, clientAt(client), http.MethodPatch, s.connection, strings.NewReader(`{"metadata":{"plan":"team"}}`))
	var entries []struct{ IP string }
	s.Partner().Call(t, http.MethodGet, "/v1/audit?action=connection.update", nil, &entries)
	if len(entries) != 1 || entries[0].IP != client {
		t.Errorf("the audit log has %v, want %s", entries, client)
	}
}

// replicaDies kills one, which nobody who reads notices.
func (s *site) replicaDies(t *testing.T) {
	t.Helper()
	s.replicas[0].Signal(t, syscall.SIGKILL)
	s.replicas[0].Wait(t)
	for i := range 20 {
		if got := s.send(t, processtest.PlainClient(), http.MethodGet, s.connection, nil); got.status != http.StatusOK {
			t.Errorf("call %d: %d", i, got.status)
		}
	}
}
