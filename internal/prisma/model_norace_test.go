//go:build !race

package prisma_test

// modelSchedules is how many schedules TestModel runs.
const modelSchedules = 100_000
