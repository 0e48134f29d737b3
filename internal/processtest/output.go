package processtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
)

// Output collects what a process writes, and lets tests wait for a line of it.
type Output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ended bool
	grown chan struct{} // closed at the next change; nil: nobody waits
}

// Write implements io.Writer.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.text.Write(b)
}

func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wake()
}

func (o *Output) wake() {
	if o.grown != nil {
		close(o.grown)
		o.grown = nil
	}
}

// String returns everything so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Tail is the end of it, for a failure's message.
func (o *Output) Tail() string {
	const most = 4000
	text := o.String()
	return text[max(0, len(text)-most):]
}

// Await returns the first line that match accepts, or an error when the process
// ends or the time is up before there is one.
func (o *Output) Await(ctx context.Context, match func(line string) bool) (string, error) {
	for {
		o.mu.Lock()
		text, ended := o.text.String(), o.ended
		if o.grown == nil {
			o.grown = make(chan struct{})
		}
		grown := o.grown
		o.mu.Unlock()
		lines := bufio.NewReader(strings.NewReader(text))
		for {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break // half a line is none yet
			}
			if match(line) {
				return line, nil
			}
		}
		if ended {
			return "", errors.New("the process ended before")
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-grown:
		}
	}
}
