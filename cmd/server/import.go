package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/connect-prisma/server/internal/tenants"
)

// importCommand takes over the tokens of a partner who holds some already.
type importCommand struct {
	Tenant string `help:"The tenant of lines that name none."`
}

const (
	// importBatch is how many lines are stored in one transaction.
	importBatch = 500
	// importWorkers is how many batches are worked on at once: while one is stored, the
	// next is read.
	importWorkers = 2
	// importProgress is how often the progress is shown.
	importProgress = 2 * time.Second
)

// Run implements the command. Standard output gets {"line", "connectionId"} for each line
// whose tokens are stored, standard error the refused ones and the progress. It fails if
// a line was refused.
func (cmd *importCommand) Run(ctx context.Context, c *console) error {
	var fallback tenants.TenantID
	if cmd.Tenant != "" {
		var err error
		if fallback, err = tenants.ParseTenantID(cmd.Tenant); err != nil {
			return errors.New("that is no tenant id; `server tenant list` shows them")
		}
	}
	return withStore(ctx, c, func(store *tenants.Store) error {
		i := &importer{store: store, console: c, fallback: fallback, began: time.Now()}
		err := i.run(ctx)
		if err != nil {
			i.progress("until then")
			return fmt.Errorf("stopped; run the same file again, and what is stored is skipped: %w", err)
		}
		i.progress("done")
		if i.refused > 0 {
			return fmt.Errorf("%d lines were refused; the others are stored", i.refused)
		}
		return nil
	})
}

// importer is one run of the command.
type importer struct {
	store    *tenants.Store
	console  *console
	fallback tenants.TenantID
	began    time.Time

	mu      sync.Mutex // guards what follows, and the console
	stored  int
	already int
	refused int
}

func (i *importer) run(ctx context.Context) error {
	workers, ctx := errgroup.WithContext(ctx)
	batches := make(chan []tenants.ImportLine)
	for range importWorkers {
		workers.Go(func() error {
			for batch := range batches {
				done, err := i.store.Import(ctx, i.console.by, batch)
				if err != nil {
					return err
				}
				if err := i.note(done); err != nil {
					return err
				}
			}
			return nil
		})
	}
	workers.Go(func() error {
		defer close(batches)
		return i.read(ctx, batches)
	})
	stop := i.showProgress()
	defer stop()
	return workers.Wait()
}

// read makes batches of the lines that can be read, and names the others.
func (i *importer) read(ctx context.Context, batches chan<- []tenants.ImportLine) error {
	input := bufio.NewReaderSize(i.console.stdin, tenants.MaxImportLine+2)
	var batch []tenants.ImportLine
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		select {
		case batches <- batch:
			batch = nil
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for number := int64(1); ; number++ {
		raw, err := nextLine(input)
		if err != nil && len(raw) == 0 {
			if errors.Is(err, io.EOF) {
				return send()
			}
			return fmt.Errorf("read standard input: %w", err)
		}
		if number == 1 {
			raw = bytes.TrimPrefix(raw, []byte("\uFEFF")) // some editors put it in front
		}
		if raw = bytes.TrimSpace(raw); len(raw) == 0 {
			continue
		}
		line, refused := tenants.ParseImportLine(raw, i.fallback)
		if refused != nil {
			if err := i.note([]tenants.Imported{{Number: number, Refused: refused.Error()}}); err != nil {
				return err
			}
			continue
		}
		line.Number = number
		if batch = append(batch, line); len(batch) == importBatch {
			if err := send(); err != nil {
				return err
			}
		}
	}
}

// nextLine returns the next line without its end; of one that is too long a part that
// is too long too.
func nextLine(input *bufio.Reader) ([]byte, error) {
	line, err := input.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := bytes.Repeat([]byte("x"), tenants.MaxImportLine+1)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = input.ReadSlice('\n')
	}
	return long, err
}

// note prints what became of lines.
func (i *importer) note(done []tenants.Imported) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	for _, d := range done {
		switch {
		case d.Refused != "":
			i.refused++
			_, _ = fmt.Fprintf(i.console.stderr, "line %d: refused: %s\n", d.Number, d.Refused)
			continue
		case d.Already:
			i.already++
		default:
			i.stored++
		}
		err := lines.Encode(struct {
			Line         int64  `json:"line"`
			ConnectionID string `json:"connectionId"`
		}{d.Number, d.Connection.String()})
		if err != nil {
			return fmt.Errorf("encode a line: %w", err)
		}
	}
	if _, err := i.console.stdout.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

// showProgress shows the progress again and again until stop is called.
func (i *importer) showProgress() (stop func()) {
	ticker := time.NewTicker(importProgress)
	ended := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				i.progress("so far")
			}
		}
	})
	return func() {
		ticker.Stop()
		close(ended)
		showing.Wait()
	}
}

func (i *importer) progress(when string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, _ = fmt.Fprintf(i.console.stderr, "%s: %d stored, %d already there, %d refused, after %s\n",
		when, i.stored, i.already, i.refused, time.Since(i.began).Round(100*time.Millisecond))
}
