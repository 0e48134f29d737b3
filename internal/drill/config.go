package drill

import (
	"errors"
	"io"
	"slices"
	"time"
)

// Config says what a run does.
type Config struct {
	Server string           // the program under test; required
	Seed   uint64           // of the choices: which replica, which connection, when
	Only   []string         // names of scenarios; empty: all
	Counts Counts           // how much of each fault
	Timed  bool             // the machine is this run's alone: what depends on its load has limits too
	Keep   bool             // leave the logs and the database's files behind
	Out    io.Writer        // takes the progress and the scoreboard; required
	Now    func() time.Time // the wall clock, with monotonic values; required
}

// Counts is how much of everything a run does.
type Counts struct {
	Replicas    int // processes of the service
	Connections int // users' connections
	Rate        int // connections that become due in a second, at most
	Workers     int // partner calls under way at once

	Kills       int // SIGKILL of a replica under load
	Pauses      int // SIGSTOP of 3 s
	LongPauses  int // SIGSTOP of 20 s
	OverPauses  int // SIGSTOP for longer than the lease
	Rolls       int // SIGTERM of a replica, and a new one
	Crashes     int // of Postgres, at most DownFor long
	DownFor     time.Duration
	SpoolDeaths int // every replica is killed while Postgres is down
	FullDisks   int // Postgres is down and the spool's disk is full
	Cuts        int // COMMITs that are cut
	HangUps     int // calls whose caller leaves within 300 ms
	DeadFor     time.Duration
	ReadOnlyFor time.Duration
	LeewayKills int

	StormReplicas int
	StormCallers  int // on one connection
	StormRuns     int
	Refused       int           // connections refused at once
	Stuck         int           // calls that wait for a token endpoint that hangs
	Window        time.Duration // how long other reads are looked at, calm and then
}

// Quick is a run of less than three minutes on two cores.
func Quick() Counts {
	return Counts{
		Replicas: 3, Connections: 120, Rate: 60, Workers: 24,
		Kills: 3, Pauses: 2, LongPauses: 0, OverPauses: 0, Rolls: 3, Crashes: 2, DownFor: 2 * time.Second,
		SpoolDeaths: 1, FullDisks: 1, Cuts: 40, HangUps: 100, DeadFor: 3 * time.Second,
		ReadOnlyFor: 2 * time.Second, LeewayKills: 2,
		StormReplicas: 4, StormCallers: 1000, StormRuns: 2, Refused: 100, Stuck: 200, Window: 2 * time.Second,
	}
}

// Full is as much as one machine can do in about 25 minutes.
func Full() Counts {
	return Counts{
		Replicas: 3, Connections: 500, Rate: 100, Workers: 32,
		Kills: 80, Pauses: 40, LongPauses: 5, OverPauses: 1, Rolls: 50, Crashes: 15, DownFor: 12 * time.Second,
		SpoolDeaths: 6, FullDisks: 4, Cuts: 1000, HangUps: 5000, DeadFor: 45 * time.Second,
		ReadOnlyFor: 10 * time.Second, LeewayKills: 30,
		StormReplicas: 4, StormCallers: 1000, StormRuns: 7, Refused: 500, Stuck: 500, Window: 6 * time.Second,
	}
}

func (c Config) check() error {
	n := c.Counts
	switch {
	case c.Server == "" || c.Out == nil || c.Now == nil:
		return errors.New("drill: a server, an output and a clock are needed")
	case n.Replicas < 2 || n.StormReplicas < 2:
		return errors.New("drill: at least two replicas are needed")
	case n.Connections < max(n.Refused, n.Stuck/4, 20):
		return errors.New("drill: there must be at least 20 connections, as many as are refused at once, " +
			"and a quarter of the stuck calls")
	case n.Rate < 1 || n.Workers < 1:
		return errors.New("drill: rate and workers must be at least 1")
	}
	for _, name := range c.Only {
		if !slices.Contains(Scenarios(), name) {
			return errors.New("drill: there is no scenario " + name)
		}
	}
	return nil
}

// numbers are the scaled-down times of the service in one part of the drill. The rules
// between them are those of production; the service refuses a set that breaks them.
type numbers struct {
	answer, write, stall time.Duration // of the lease, beside 1 s each for connecting and TLS
	hold, leeway         time.Duration
	callerWait           time.Duration
	breakerSlow          time.Duration
}

func (n numbers) lease() time.Duration { return 2*time.Second + n.answer + n.write + n.stall }

// environment is n as the service reads it.
func (n numbers) environment() []string {
	set := func(name string, d time.Duration) string { return "REFRESH_" + name + "=" + d.String() }
	return []string{
		set("DIAL", time.Second), set("TLS", time.Second), set("ANSWER", n.answer), set("WRITE", n.write),
		set("STALL", n.stall), set("LEASE", n.lease()), set("SEND_GUARD", 3*time.Second),
		set("WRITE_ATTEMPT", 2*time.Second), set("SAVE_TO", time.Second),
		set("CALLER_WAIT", n.callerWait), set("REFUSAL_AGE", refusalAge),
		set("BACKOFF_FROM", 200*time.Millisecond), set("BACKOFF_TO", 2*time.Second),
		set("BREAKER_SLOW", n.breakerSlow), set("BREAKER_FROM", 500*time.Millisecond), set("BREAKER_TO", 3*time.Second),
		set("SUSPECT_PAUSE", 500*time.Millisecond), set("LATE_FROM", 500*time.Millisecond), set("LATE_TO", lateTo),
		set("HOLD", n.hold), set("LEEWAY", n.leeway),
	}
}

// lateTo is the longest pause between two late retries.
const lateTo = 2 * time.Second

// refusalAge is how young an access token may be that the API refuses for good, and how
// often a refusal may force a refresh.
const refusalAge = time.Second

// brisk is for everything that waits for leases to end.
func brisk() numbers {
	return numbers{
		answer: 5 * time.Second, write: 2 * time.Second, stall: 4 * time.Second, hold: 2 * time.Second,
		callerWait: 4 * time.Second, breakerSlow: 2 * time.Second,
	}
}

// steady stands 20 s of pause: neither the lease nor the wait for an answer may end
// meanwhile.
func steady() numbers {
	n := brisk()
	n.answer, n.stall = 25*time.Second, 25*time.Second
	return n
}

// patient waits for an answer of 10 s.
func patient() numbers {
	return numbers{
		answer: 15 * time.Second, write: 4 * time.Second, stall: 5 * time.Second, hold: 2 * time.Second,
		callerWait: 15 * time.Second, breakerSlow: 5 * time.Second,
	}
}

const (
	// leewayAtPrisma is what the simulator grants in the scenario with leeway, and
	// leewayOfOurs what the replicas are told, which is less.
	leewayAtPrisma = 30 * time.Second
	leewayOfOurs   = 25 * time.Second
)

// forgiving knows of a leeway.
func forgiving() numbers {
	n := brisk()
	n.leeway = leewayOfOurs
	return n
}
