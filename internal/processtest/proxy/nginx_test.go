package proxy_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
)

// config is what the compose file gives to its proxy.
const config = "../../../deploy/nginx.conf"

// startNginx runs nginx with the configuration that we hand out, of which nothing is
// changed but the addresses and where temporary files lie. Its replicas are the two given.
func startNginx(t *testing.T, listen string, replicas [2]*processtest.Replica) *processtest.Process {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // Debian's, which ordinary users don't have on PATH
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, change := range []struct{ from, to string }{
		{"listen 8080;", "listen " + listen + ";"},
		{"server serve-1:8080 ", "server " + strings.TrimPrefix(replicas[0].Origin, "http://") + " "},
		{"server serve-2:8080 ", "server " + strings.TrimPrefix(replicas[1].Origin, "http://") + " "},
		{"pid /tmp/", "pid " + dir + "/"},
		{"client_body_temp_path /tmp/", "client_body_temp_path " + dir + "/"},
		{"proxy_temp_path       /tmp/", "proxy_temp_path " + dir + "/"},
		{"fastcgi_temp_path     /tmp/", "fastcgi_temp_path " + dir + "/"},
		{"uwsgi_temp_path       /tmp/", "uwsgi_temp_path " + dir + "/"},
		{"scgi_temp_path        /tmp/", "scgi_temp_path " + dir + "/"},
	} {
		if n := strings.Count(string(text), change.from); n != 1 {
			t.Fatalf("%s has %q %d times", config, change.from, n)
		}
		text = []byte(strings.Replace(string(text), change.from, change.to, 1))
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	directives := "daemon off;"
	if os.Getuid() == 0 { // its workers would be nobody, who may not enter the directory
		directives += " user root;"
	}
	p := processtest.Start(t, processtest.Launch{Program: program, Args: []string{"-p", dir, "-e", "stderr", "-c", file, "-g", directives}, Dir: dir})
	processtest.Eventually(t, "nginx listens", func() bool {
		select {
		case <-p.Done:
			t.Fatalf("nginx (Debian: apt-get install nginx-light) ended at once:\n%s", p.Stderr.Tail())
		default:
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listen)
		if err != nil {
			return false
		}
		_ = conn.Close() // it was only a look
		return true
	})
	return p
}

// clientAt is a client whose requests come from that address of this machine.
func clientAt(address string) *http.Client {
	client := processtest.PlainClient()
	client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext(ctx, network, to)
	}}
	return client
}

// stopNginx lets it finish what it does, and returns what it logged.
func stopNginx(t *testing.T, p *processtest.Process) (access string) {
	t.Helper()
	p.Stop(t, syscall.SIGQUIT)
	if errors := p.Stderr.String(); errors != "" {
		t.Errorf("nginx complains:\n%s", errors)
	}
	return p.Stdout.String()
}
