package tenants

import (
	"bytes"
	"fmt"
	"time"

	"github.com/connect-prisma/server/internal/sealing"
)

// attempt is one presentation of a refresh token, as far as the chain tells.
type attempt struct {
	sequence    int64
	generation  int64
	lateRetry   bool
	leaseUntil  *time.Time
	end         ledgerEntry // "": none so far
	fingerprint []byte
	key         uint32
}

// maybeSpent reports whether the token may have reached the authorization server as
// one that counts.
func (a *attempt) maybeSpent() bool { return !a.end.unspent() }

// open reports whether nobody knows how it ended.
func (a *attempt) open() bool { return a.end == "" || a.end == entryUnknown }

// replay goes through one chain from its start, or from its fold, and reports
// whatever does not fit. Its memory grows with the chain's attempts, by some dozens of
// bytes each.
type replay struct {
	chain

	keyset *sealing.Keyset
	report func(sequence int64, what string)

	sequence    int64 // of the last row
	folded      int64 // of the last row in the fold; 0: there is none
	head        []byte
	sealed      bool  // whoever wrote the last row sealed the end of the chain
	generation  int64 // of the pair that is stored
	fingerprint []byte
	key         uint32
	lost        bool // rows are missing, and with them what the next ones rest on
	counts      map[ledgerEntry]int64
	lateRetries int64
	attempts    map[int64]*attempt // those that could still get an end
	current     []*attempt         // those with the stored pair
	spent       map[string]int64   // fingerprints of tokens of earlier pairs, and the generations
}

func newReplay(keyset *sealing.Keyset, c chain, report func(sequence int64, what string)) *replay {
	return &replay{
		chain: c, keyset: keyset, report: report,
		counts: map[ledgerEntry]int64{}, attempts: map[int64]*attempt{}, spent: map[string]int64{},
	}
}

// next takes the next row of the chain.
func (r *replay) next(row ledgerRow) {
	gap := row.sequence != r.sequence+1
	switch {
	case row.sequence <= r.sequence:
		r.report(row.sequence, "the row is in the fold already")
		return
	case gap && row.sequence == r.sequence+2:
		r.report(row.sequence-1, "the row is missing")
	case gap:
		r.report(r.sequence+1, fmt.Sprintf("the rows until %d are missing", row.sequence-1))
	}
	if gap {
		r.lost, r.current = true, nil
	} else if err := r.keyset.CheckMAC(row.mac, row.key, ledgerRowPurpose, row.message(r.chain, r.head)...); err != nil {
		r.report(row.sequence, "the row was altered, or is not of this connection: "+err.Error())
		r.lost = true
	}
	r.sequence, r.head, r.sealed = row.sequence, row.mac, row.headSealed
	r.counts[row.entry]++
	switch {
	case row.entry == entryBegun:
		r.begun(row)
	case row.entry.ends():
		r.ended(row)
	}
	if row.entry.moves() {
		r.moved(row)
	}
}

// begun takes a presentation: of the stored pair, and the first one, or a late retry after
// outcomes that nobody knows, once the leases of those before have ended.
func (r *replay) begun(row ledgerRow) {
	a := &attempt{
		sequence: row.sequence, generation: row.generation, lateRetry: row.lateRetry, leaseUntil: row.leaseUntil,
		fingerprint: row.fingerprint, key: row.key,
	}
	r.attempts[row.sequence] = a
	if row.lateRetry {
		r.lateRetries++
	}
	if r.lost {
		r.current = append(r.current, a)
		return
	}
	presented := 0
	known := false  // some earlier presentation's outcome
	leased := false // some earlier one may be on its way
	for _, earlier := range r.current {
		if earlier.maybeSpent() {
			presented++
			known = known || !earlier.open()
			leased = leased || earlier.end == "" && earlier.leaseUntil != nil && row.at.Before(*earlier.leaseUntil)
		}
	}
	spentAs, spent := r.spent[fingerprintKey(row.fingerprint, row.key)]
	switch {
	case row.generation != r.generation:
		r.report(row.sequence, fmt.Sprintf("the refresh token of generation %d was presented while %d was the stored one",
			row.generation, r.generation))
	case sameKeyDiffers(row.fingerprint, row.key, r.fingerprint, r.key):
		r.report(row.sequence, "the refresh token presented is not the one that was stored")
	case spent && row.fingerprint != nil:
		r.report(row.sequence, fmt.Sprintf("the refresh token was presented before, as that of generation %d", spentAs))
	case presented > 0 && known:
		r.report(row.sequence, "the refresh token was presented again, although its outcome was known")
	case presented > 0 && !row.lateRetry:
		r.report(row.sequence, "the refresh token was presented again, and not as a late retry of a suspect connection")
	case leased && row.leaseUntil != nil: // with a leeway there are none, and a dead replica's attempt is repeated at once
		r.report(row.sequence, "the refresh token was presented again, and the lease of an earlier attempt had not ended")
	}
	r.current = append(r.current, a)
}

// ended takes the end of an attempt. One that was unknown may be known later.
func (r *replay) ended(row ledgerRow) {
	a := r.attempts[row.attempt]
	generation := row.generation
	if row.entry.moves() {
		generation--
	}
	switch {
	case a == nil && (r.lost || row.attempt <= r.folded):
		return // its begun is gone, or in the fold
	case a == nil:
		r.report(row.sequence, fmt.Sprintf("it ends the attempt %d, which is none or has ended", row.attempt))
		return
	case a.generation != generation:
		r.report(row.sequence, fmt.Sprintf("it ends the attempt %d, which was of another generation", row.attempt))
	case a.end == entryUnknown && row.entry == entryUnknown:
		r.report(row.sequence, fmt.Sprintf("it ends the attempt %d a second time", row.attempt))
	}
	if a.end = row.entry; row.entry != entryUnknown {
		delete(r.attempts, row.attempt)
	}
}

// moved takes another stored pair.
func (r *replay) moved(row ledgerRow) {
	first := r.sequence == 1
	switch {
	case r.lost, first && row.entry == entryAdopted, first && row.generation == 1:
	case row.entry == entryAdopted:
		r.report(row.sequence, fmt.Sprintf("generation %d was stored and the ledger was not told", row.generation))
	case row.generation != r.generation+1:
		r.report(row.sequence, fmt.Sprintf("generation %d follows %d", row.generation, r.generation))
	}
	// A server may leave the refresh token as it is, and say so by sending none: then it
	// is as good as a new one.
	kept := row.key == r.key && row.fingerprint != nil && bytes.Equal(row.fingerprint, r.fingerprint) &&
		(row.entry == entrySaved || row.entry == entryFoundSaved)
	if !kept {
		for _, a := range r.current {
			if a.maybeSpent() && a.fingerprint != nil {
				r.spent[fingerprintKey(a.fingerprint, a.key)] = a.generation
			}
		}
	}
	r.generation, r.fingerprint, r.key = row.generation, row.fingerprint, row.key
	r.current, r.lost = nil, false
}

// pending reports whether an exchange may have been saved without its row.
func (r *replay) pending() bool {
	for _, a := range r.current {
		if a.open() {
			return true
		}
	}
	return false
}

// openAttempts counts the attempts that never got an end.
func (r *replay) openAttempts() int64 {
	n := int64(0)
	for _, a := range r.attempts {
		if a.end == "" {
			n++
		}
	}
	return n
}

func fingerprintKey(fingerprint []byte, key uint32) string {
	return fmt.Sprintf("%d/%s", key, fingerprint)
}
