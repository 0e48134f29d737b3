package prisma_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// spool is a spool in memory.
type spool struct {
	keep func() error // nil: at once, and well

	mu    sync.Mutex
	kept  []prisma.Tokens
	claim prisma.Claim
	done  int
}

func (s *spool) Keep(_ context.Context, _ prisma.Connection, claim prisma.Claim, fresh prisma.Tokens) (func(), error) {
	s.mu.Lock()
	s.kept = append(s.kept, fresh)
	s.claim = claim
	s.mu.Unlock()
	if s.keep != nil {
		if err := s.keep(); err != nil {
			return nil, err
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done++
	}, nil
}

func (s *spool) counts() (kept, done int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept), s.done
}

func TestSpool(t *testing.T) {
	t.Parallel()

	failing := func(until int) func(int, func() error) error {
		return func(n int, save func() error) error {
			if n < until {
				return errStorage
			}
			return save()
		}
	}
	tests := map[string]struct {
		save       func(n int, save func() error) error
		keep       func() error
		took       time.Duration // of the whole refresh: the spool must add nothing
		kept, done int
	}{
		"not on the happy path": {save: nil},
		"from the first failed try": {
			save: failing(5), took: 750 * time.Millisecond, kept: 1, done: 1,
		},
		"a full disk": {
			save: failing(5), keep: func() error { return errors.New("no space left") }, took: 750 * time.Millisecond, kept: 1,
		},
		"a disk that hangs": {
			save: failing(5), keep: func() error { time.Sleep(time.Hour); return nil }, took: 750 * time.Millisecond, kept: 1, done: 1,
		},
		"a panic": {
			save: failing(2), keep: func() error { panic("canary") }, took: 50 * time.Millisecond, kept: 1,
		},
		"superseded": {
			save: func(n int, _ func() error) error {
				if n == 1 {
					return errStorage
				}
				return prisma.ErrSuperseded
			}, took: 50 * time.Millisecond, kept: 1, done: 1,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				files := &spool{keep: tc.keep}
				r := newRefresher(t, newAuthServer(0, "r"), func(c *prisma.RefresherConfig) {
					c.Spool, c.Logger = files, slog.New(slog.NewTextHandler(&log, nil))
				})
				s := newStorage(t, pair("r", 2*time.Hour))
				s.save = tc.save
				begun := now()
				if _, err := r.AccessToken(t.Context(), connection("c", s)); err != nil {
					t.Errorf("AccessToken() error = %v", err)
				}
				if took := now().Sub(begun); took != tc.took {
					t.Errorf("AccessToken() took %s, want %s", took, tc.took)
				}
				time.Sleep(2 * time.Hour)
				if kept, done := files.counts(); kept != tc.kept || done != tc.done {
					t.Errorf("kept %d times, removed %d times; want %d and %d", kept, done, tc.kept, tc.done)
				}
				if tc.kept > 0 && (files.kept[0].Refresh != "r.1" || files.kept[0].Generation != 2 || files.claim.Current.Refresh != "r") {
					t.Errorf("kept %v of %v", files.kept[0], files.claim.Current)
				}
				if text := log.String(); strings.Contains(text, "canary") || strings.Contains(text, "access-r") {
					t.Errorf("log = %s", text)
				}
			})
		})
	}
}

// TestGivenUpPairStaysInTheSpool: at the end of the process the entry is for its
// successor, and the log says which pairs are safe.
func TestGivenUpPairStaysInTheSpool(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		keep func() error
		want string
	}{
		"kept":  {nil, "stay in the spool"},
		"full":  {func() error { return errors.New("no space left") }, "refreshed tokens lost"},
		"hangs": {func() error { time.Sleep(time.Hour); return nil }, "refreshed tokens lost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				files := &spool{keep: tc.keep}
				r := newRefresher(t, newAuthServer(0, "r"), func(c *prisma.RefresherConfig) {
					c.Spool, c.Logger = files, slog.New(slog.NewTextHandler(&log, nil))
				})
				s := newStorage(t, pair("r", 2*time.Hour))
				s.save = func(int, func() error) error { return errStorage }
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := r.AccessToken(t.Context(), connection("c", s)); err == nil {
						t.Error("AccessToken() hands out a pair that is not stored")
					}
				})
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := r.Wait(ctx); err == nil {
					t.Error("Wait() error = nil")
				}
				if text := log.String(); !strings.Contains(text, tc.want) { // before Wait returns: the process ends then
					t.Errorf("log = %s, want it to say %q", text, tc.want)
				}
				wg.Wait()
				time.Sleep(2 * time.Hour)
				if kept, done := files.counts(); kept != 1 || done != 0 {
					t.Errorf("kept %d times, removed %d times; want it kept and left", kept, done)
				}
			})
		})
	}
}
