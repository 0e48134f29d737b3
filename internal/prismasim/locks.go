package prismasim

import (
	"slices"
	"sync"
)

// keyedLocks is a mutex for each key: work on one real database is done by one
// at a time, work on two at once.
type keyedLocks struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	mu    sync.Mutex
	users int // holders and waiters; the entry goes with the last
}

// lock takes the locks of all keys, in one order for everybody, and returns what
// frees them.
func (k *keyedLocks) lock(keys ...string) (unlock func()) {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	held := make([]*keyedLock, len(keys))
	for i, key := range keys {
		held[i] = k.entry(key)
		held[i].mu.Lock()
	}
	return func() {
		for i, key := range keys {
			held[i].mu.Unlock()
			k.leave(key)
		}
	}
}

func (k *keyedLocks) entry(key string) *keyedLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	entry := k.locks[key]
	if entry == nil {
		entry = &keyedLock{}
		k.locks[key] = entry
	}
	entry.users++
	return entry
}

func (k *keyedLocks) leave(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if entry := k.locks[key]; entry.users > 1 {
		entry.users--
		return
	}
	delete(k.locks, key)
}
