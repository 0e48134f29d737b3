package devpg

import (
	"context"
	"os"
	"strconv"
	"strings"
)

// StartIn is Start with another directory than /var/lib/connect-prisma.
func StartIn(ctx context.Context, cfg Config, fallback string) (*Server, error) {
	return start(ctx, cfg, fallback)
}

// FindBinaries returns the directory that findBinaries picks.
func FindBinaries(ctx context.Context, dirs []string, want int) (string, error) {
	b, err := findBinaries(ctx, dirs, want)
	return b.dir, err
}

// InstalledIn lists where installations may be.
func InstalledIn() []string { return installedIn() }

// Home returns where the cluster lies.
func (s *Server) Home() string { return s.site.home }

// Owned reports whether this Server, and not another one, runs the postmaster.
func (s *Server) Owned() bool { return s.process != nil }

// Pid returns the postmaster's process id, of an attached server too.
func (s *Server) Pid() int {
	st, err := readPidFile(s.site.data())
	if err != nil {
		return 0
	}
	return st.pid
}

// IsPostmaster is isPostmaster for a cluster's home. A zombie is none.
func IsPostmaster(pid int, home string) bool { return isPostmaster(pid, site{home: home}.data()) }

// GiveTo hands a file to the account that the server of home runs as.
func (s *Server) GiveTo(name string) error { return s.site.give(name) }

// PidFile returns the text of a postmaster.pid that says "ready".
func PidFile(pid int, home string, port int) string {
	return strings.Join([]string{
		strconv.Itoa(pid), site{home: home}.data(), "1700000000", strconv.Itoa(port), "", "127.0.0.1", "  1234  5678", "ready   ", "",
	}, "\n")
}

// IsRoot reports whether the server must run as another account.
func IsRoot() bool { return os.Geteuid() == 0 }
