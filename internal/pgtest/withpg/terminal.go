package main

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fromTerminal reports whether a signal was typed: the terminal then sends it to
// the command too, which shares our process group, and passing it on would look
// like typing it twice.
func fromTerminal(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // there is no terminal
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// isPostgresVariable tells the variables that the client library would mix into
// every connection of the tests. Where passwords are kept may stay: a URL that the
// caller has given may count on it.
func isPostgresVariable(v string) bool {
	name, _, _ := strings.Cut(v, "=")
	switch name {
	case "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGDATA", "PGOPTIONS", "PGAPPNAME",
		"PGSSLMODE", "PGTARGETSESSIONATTRS", "PGTZ", "PGREQUIREAUTH", "PGCHANNELBINDING":
		return true
	}
	return false
}
