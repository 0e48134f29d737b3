package managementapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// resetting is an HTTP/2 server that takes each request and then resets its stream in the
// way after which Go's transport sends a request without a body again. It counts them.
func resetting(t *testing.T) (url string, transport *http.Transport, requests *atomic.Int32) {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(certified.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	requests = new(atomic.Int32)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { <-over; _ = conn.Close() })
			serving.Go(func() { resetStreams(conn, requests) })
		}
	})
	pool, _ := certified.Client().Transport.(*http.Transport)
	transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: pool.TLSClientConfig}
	t.Cleanup(transport.CloseIdleConnections)
	return "https://" + listener.Addr().String(), transport, requests
}

// resetStreams serves one connection.
func resetStreams(conn net.Conn, requests *atomic.Int32) {
	_, _ = io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			requests.Add(1) // as if it had been processed
			_ = framer.WriteRSTStream(frame.StreamID, http2.ErrCodeProtocol)
		}
	}
}

// TestTransportSendsOnce: Go's transport repeats a request without a body when its stream
// is reset, again and again. A call is repeated by the client's own rules or not at all.
func TestTransportSendsOnce(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		call func(ctx context.Context, c *managementapi.Client) error
		want int32
	}{
		"POST without a body": {func(ctx context.Context, c *managementapi.Client) error {
			_, err := c.RotateConnection(ctx, "con_1")
			return err
		}, 1},
		"POST with a body": {func(ctx context.Context, c *managementapi.Client) error {
			_, err := c.CreateWorkspace(ctx, managementapi.CreateWorkspaceRequest{})
			return err
		}, 1},
		"DELETE": {func(ctx context.Context, c *managementapi.Client) error { return c.DeleteProject(ctx, "proj_1") }, 1},
		"GET": {func(ctx context.Context, c *managementapi.Client) error {
			_, err := c.GetProject(ctx, "proj_1")
			return err
		}, 3}, // the attempts of RetrySettings
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, transport, requests := resetting(t)
			client := newClient(t, managementapi.Config{
				BaseURL: url, Token: "tok", Transport: transport, Retry: managementapi.RetrySettings{From: 1, To: 1},
			})
			err := tc.call(t.Context(), client)
			if failure, ok := errors.AsType[*managementapi.FetchError](err); !ok || !failure.Sent {
				t.Errorf("error = %v, want a *FetchError that was sent", err)
			}
			if got := requests.Load(); got != tc.want {
				t.Errorf("%d requests arrived, want %d", got, tc.want)
			}
		})
	}
}
