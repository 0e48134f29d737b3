package passthrough

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// keptBody is how much of a request's body is kept while it is sent, in bytes, so that it
// can be sent again after a 401. Prisma's own bodies are a few KiB at most.
const keptBody = 64 << 10

// errReplaced ends the reading of an attempt that another one has taken the place of.
var errReplaced = errors.New("the attempt is over")

// errForgotten says that a body can't be sent again from its beginning.
var errForgotten = errors.New("the body was too long to be kept")

// body is the client's body. Attempts read it one after the other, each from the
// beginning, for as long as what was read so far is kept. The transport may still be
// reading for the attempt before when the next one begins: what it gets is kept all the
// same, so that nothing is lost between them.
type body struct {
	mu    sync.Mutex
	from  io.Reader
	limit int64
	ended func() // called once, when the body has been read to its end

	kept   []byte
	read   int64 // how much has been read; more than len(kept) once it is not kept any more
	failed error // what from ended with: io.EOF, or why it can't be read
	turn   int   // the attempt that may read
}

// attempt returns the body from its beginning, and whether that is possible. The reader
// before ends.
func (b *body) attempt() (io.Reader, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn++
	return &bodyReader{body: b, turn: b.turn}, b.read == int64(len(b.kept))
}

// clientFailure returns why the client's body could not be read, nil if that was not the
// trouble.
func (b *body) clientFailure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.failed, io.EOF) {
		return nil
	}
	return b.failed
}

// bodyReader is one attempt's view of the body.
type bodyReader struct {
	body *body
	turn int
	at   int64
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.turn != b.turn:
		return 0, errReplaced
	case r.at < b.read && r.at < int64(len(b.kept)) && b.read == int64(len(b.kept)):
		n := copy(p, b.kept[r.at:])
		r.at += int64(n)
		return n, nil
	case r.at < b.read:
		return 0, errForgotten
	case b.failed != nil:
		return 0, b.failed
	}
	n, err := b.more(p)
	r.at += int64(n)
	return n, err
}

// more reads on. b.mu is held.
func (b *body) more(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.read+int64(n) > b.limit {
		n, err = 0, &http.MaxBytesError{Limit: b.limit}
	}
	whole := b.read == int64(len(b.kept))
	b.read += int64(n)
	switch {
	case whole && b.read <= keptBody:
		b.kept = append(b.kept, p[:n]...)
	case whole && n > 0:
		b.kept = nil
	}
	if err != nil {
		b.failed = err
	}
	if errors.Is(err, io.EOF) {
		b.ended()
		return n, io.EOF
	}
	if err != nil {
		return n, fmt.Errorf("read the client's body: %w", err)
	}
	return n, nil
}
