package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRunNamesTheMissingSetting(t *testing.T) {
	t.Parallel()

	err := run(t.Context(), func(name string) string {
		return map[string]string{"CONNECT_URL": "http://localhost:8080"}[name]
	}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "CONNECT_API_KEY") {
		t.Errorf("run() = %v, want it to name CONNECT_API_KEY", err)
	}
}

// TestServeDrains: a request under way when the signal comes is still answered.
func TestServeDrains(t *testing.T) {
	t.Parallel()

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stop()
		w.WriteHeader(http.StatusTeapot)
	})
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, handler) }()

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot {
		t.Errorf("status = %d, want the handler's", resp.StatusCode)
	}
	if err := <-served; err != nil {
		t.Errorf("serve() = %v", err)
	}
}
