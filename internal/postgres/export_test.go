package postgres

// Members counts the tenants of which a place is taken or waited for.
func (s *Shares) Members() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}
