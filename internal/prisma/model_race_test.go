//go:build race

package prisma_test

// modelSchedules is how many schedules TestModel runs: fewer under the race detector,
// which makes each of them several times as slow.
const modelSchedules = 8_000
