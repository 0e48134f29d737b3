package limits

// Remembered bounds each memory of Failures.
const Remembered = remembered

// Accounts counts what a Limiter keeps.
func (l *Limiter) Accounts() (accounts, gates int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accounts), len(l.gates)
}

// Size counts what Failures keep.
func (f *Failures) Size() (addresses, keys, known int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byIP.entries), len(f.byKey.entries), len(f.known.entries)
}

// Turns counts the addresses from which somebody is being looked up.
func (f *Failures) Turns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.turns)
}
