package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// MaxConnections is how many connections a replica has open at once. Further ones wait in
// the system's queue until one ends: who opens many and sends nothing loses each within ten
// seconds, and the memory that they take has a bound.
const MaxConnections = 4096

// MaxHeader is the most bytes that a request's line and its header may have together.
const MaxHeader = 32 << 10

// NewHTTPServer returns a server with the limits that hold for every request, whoever sends
// it and wherever it goes. Handlers that take longer, such as the pass-through's, move the
// deadlines of their own connection.
func NewHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      120 * time.Second, // a creating call may take a minute
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    MaxHeader - 4<<10, // net/http reads 4 KiB more
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// LimitConnections returns listener with MaxConnections connections at most.
func LimitConnections(listener net.Listener) net.Listener {
	return netutil.LimitListener(listener, MaxConnections)
}
