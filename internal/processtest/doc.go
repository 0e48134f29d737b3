// Package processtest runs the server as its users do: as a program with arguments, an
// environment, HTTP on its ports and signals.
//
// A test starts from one of these:
//
//	in := processtest.NewInstallation(t)            // settings and a migrated database: operator's commands
//	w := processtest.NewWorld(t, change)            // that, with a simulated Prisma and one tenant
//	d := processtest.StartDev(t, DevOptions{})      // `server dev`, which brings everything
//
// and goes on with replicas of its own, which it may signal, kill and start again:
//
//	r := processtest.StartServe(t, w.Installation.With(nil))
//	c := w.Connect(t, "ada")                        // a user goes through the flow
//	w.Advance(t, processtest.PastAccessTokens)      // in the simulator and the database
//	r.Signal(t, syscall.SIGKILL)
//	r.Wait(t)
//
// Whatever is still running when the test ends is stopped; a process that does not stop,
// and a data race in any of them, fail the test.
//
// The program is built once for all packages of a run (see Server). Tests are in packages
// of their own, by what they do to the program, so that none takes longer than a minute:
//
//	cmd/server             the commands of an operator, and starts that are refused
//	processtest/dev        `server dev`: from nothing to a database, and back after any end
//	processtest/browser    the pages, in Chromium
//	processtest/replicas   several replicas on one database
//	processtest/crash      replicas killed and databases stopped in the middle of a refresh
//	processtest/provisioning  replicas killed in the middle of creating calls
//	processtest/rolling    replicas replaced under load, by this version and the one before
//	processtest/pgbouncer  everything behind a pooler
//	processtest/proxy      replicas behind nginx, with the configuration in deploy
package processtest
