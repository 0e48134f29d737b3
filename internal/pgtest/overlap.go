package pgtest

import (
	"flag"
	"runtime"
	"strconv"
	"testing"
)

// overlap is how many tests run at once for each processor.
const overlap = 3

// Overlap lets more tests run at once than there are processors, unless the flag
// -parallel says how many: tests with a database wait for it more than they compute.
// It is for TestMain, before the tests run.
func Overlap(*testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if chosen {
		return
	}
	_ = flag.Set("test.parallel", strconv.Itoa(overlap*runtime.GOMAXPROCS(0))) // every test binary has the flag
}
