package replicas_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
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
//	go test ./internal/processtest/replicas -run '^$' -bench NoisyTenant -benchtime 90x -timeout 20m
//
// One round is about a second of each. p99-ratio is the noisy 99th percentile by the calm
// one. floor-p99-ratio is the same with as many calls of GET /healthz for noise, which know
// no tenant and no limit: what that many calls of anything cost on this machine, which
// the callers share with the server and its database.
//
// Everybody comes at random, as independent callers do: at fixed intervals, two of them
// would meet in each of a round's calls or in none. In bursts, four noisy calls come at
// the very same time. The tail is mostly the machine's: with 30 rounds, two runs of the
// same code may be 20 % apart.
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
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var loud asked
	noises := []struct {
		name string
		call func(context.Context)
	}{
		{"calm", nil},
		{"noisy", func(ctx context.Context) { loud.ask(ctx, b, client, replica.Origin, noisy) }},
		{"floor", func(ctx context.Context) { look(ctx, b, client, replica.Origin+"/healthz") }},
	}
	for name, burst := range map[string]int{"independent": 1, "bursts": 4} {
		b.Run(name, func(b *testing.B) {
			took := map[string][]time.Duration{}
			for b.Loop() {
				for _, noise := range noises {
					took[noise.name] = append(took[noise.name], beside(b, noise.call, burst, client, replica.Origin, quiet)...)
				}
			}
			for _, noise := range noises {
				slices.Sort(took[noise.name])
				for _, percent := range []int{50, 90, 99} {
					at := func(name string) float64 { return float64(took[name][len(took[name])*percent/100].Microseconds()) }
					b.ReportMetric(at(noise.name), fmt.Sprintf("%s-p%d-µs", noise.name, percent))
					if noise.call != nil {
						b.ReportMetric(at(noise.name)/at("calm"), fmt.Sprintf("%s-p%d-ratio", noise.name, percent))
					}
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// beside asks 100 times, 100 times a second, while noise is called 200 times a second,
// burst at a time, and returns how long each answer took.
func beside(b *testing.B, noise func(context.Context), burst int, client *http.Client, origin, key string) []time.Duration {
	b.Helper()
	const calls, perSecond, noisePerSecond = 100, 100, 200
	ctx, stop := context.WithCancel(b.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	if noise != nil {
		callers.Go(func() {
			for arrive := arrivals(float64(noisePerSecond) / float64(burst)); arrive(ctx); {
				for range burst {
					callers.Go(func() { noise(context.WithoutCancel(ctx)) }) // its answer is waited for
				}
			}
		})
	}
	var heard asked
	took := make([]time.Duration, 0, calls)
	for arrive := arrivals(perSecond); len(took) < calls && arrive(ctx); {
		began := time.Now()
		heard.ask(ctx, b, client, origin, key)
		took = append(took, time.Since(began))
	}
	if heard.refused.Load() > 0 {
		b.Errorf("%d calls of the quiet tenant were refused", heard.refused.Load())
	}
	return took
}

// arrivals waits for the next of independent callers, who are so many a second; false:
// ctx ended first.
func arrivals(perSecond float64) func(ctx context.Context) bool {
	next := time.Now()
	return func(ctx context.Context) bool {
		next = next.Add(time.Duration(rand.ExpFloat64() / perSecond * float64(time.Second)))
		wait := time.NewTimer(time.Until(next))
		defer wait.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-wait.C:
			return true
		}
	}
}

// look asks for a page that everybody may see.
func look(ctx context.Context, b *testing.B, client *http.Client, address string) {
	b.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		b.Error(err)
		return
	}
	answer, err := client.Do(r)
	if err != nil {
		b.Error(err)
		return
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
}
