package replicas_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/processtest"
)

// BenchmarkNoisyTenant compares what a tenant waits for its answers while another one
// sends 20 times its own rate, with what it waits otherwise, in turns on one server:
//
//	go test ./internal/processtest/replicas -run '^$' -bench NoisyTenant -benchtime 90x
//
// One round is a second of each. p99-ratio is the noisy 99th percentile by the calm one. The
// tail is mostly the machine's: with 30 rounds, two runs of the same code may be 20 % apart.
func BenchmarkNoisyTenant(b *testing.B) {
	in := processtest.NewInstallation(b)
	replica := processtest.StartServeAt(b, in.With(nil), in.Public)
	tenant := func(name string, limits ...string) string {
		id := in.Command(b, "secret\n", append([]string{
			"tenant", "create", "--name", name, "--client-id", name, "--client-secret-stdin",
		}, limits...)...)
		return in.Command(b, "", "key", "create", id)
	}
	noisy := tenant("Noisy", "--requests-per-second", "10")
	quiet := tenant("Quiet", "--requests-per-second", "1000")
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()

	var alone, beside []time.Duration
	for b.Loop() {
		alone = append(alone, patience(b, client, replica.Origin, quiet)...)
		stop := make(chan struct{})
		var noise sync.WaitGroup
		for range 4 { // 200 a second together
			noise.Go(func() { bother(b, client, replica.Origin, noisy, stop) })
		}
		beside = append(beside, patience(b, client, replica.Origin, quiet)...)
		close(stop)
		noise.Wait()
	}
	slices.Sort(alone)
	slices.Sort(beside)
	for _, percent := range []int{50, 90, 99} {
		calm, loud := alone[len(alone)*percent/100], beside[len(beside)*percent/100]
		b.ReportMetric(float64(calm.Microseconds()), fmt.Sprintf("calm-p%d-µs", percent))
		b.ReportMetric(float64(loud.Microseconds()), fmt.Sprintf("noisy-p%d-µs", percent))
		b.ReportMetric(float64(loud)/float64(calm), fmt.Sprintf("p%d-ratio", percent))
	}
	b.ReportMetric(0, "ns/op")
}

// bother asks 50 times a second until it is stopped.
func bother(b *testing.B, client *http.Client, origin, key string, stop <-chan struct{}) {
	b.Helper()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	var heard asked
	for {
		select {
		case <-stop:
			return
		case <-ticks.C:
			heard.ask(b.Context(), b, client, origin, key)
		}
	}
}

// patience asks 100 times in a second and returns how long each answer took.
func patience(b *testing.B, client *http.Client, origin, key string) []time.Duration {
	b.Helper()
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	var heard asked
	took := make([]time.Duration, 0, 100)
	for range cap(took) {
		<-ticks.C
		began := time.Now()
		heard.ask(b.Context(), b, client, origin, key)
		took = append(took, time.Since(began))
	}
	if heard.refused.Load() > 0 {
		b.Errorf("%d calls of the quiet tenant were refused", heard.refused.Load())
	}
	return took
}
