package drill

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// settle ends the faults, gives everything that is open the time to end, compares, and
// connects the lost ones again. all also renews every connection once more, so that its
// refresh token is proven at Prisma.
func (b *board) settle(ctx context.Context, w *world, scenario string, leeway, all bool) (comparison, error) {
	if !leeway {
		if err := w.plat.calm(ctx); err != nil {
			return comparison{}, err
		}
	}
	if err := w.plat.idle(ctx, 200*time.Millisecond); err != nil {
		return comparison{}, err
	}
	if err := w.closeIntents(ctx); err != nil {
		return comparison{}, err
	}
	if all {
		if err := w.renewAll(ctx); err != nil {
			return comparison{}, err
		}
	}
	found, err := w.compare(ctx, leeway)
	if err != nil {
		return comparison{}, err
	}
	b.take(found)
	for _, c := range found.lost {
		c.lost++
	}
	if err := b.verify(ctx, w, scenario); err != nil {
		return comparison{}, err
	}
	b.note("  %s", found)
	for _, line := range found.strange {
		b.note("  %s", line)
	}
	return found, b.reconnect(ctx, w, found)
}

// closeIntents calls every connection whose refresh is open until it no longer is.
func (w *world) closeIntents(ctx context.Context) error {
	// A token that went unanswered is presented again when the lease of the last time has
	// ended, and after a pause; the breaker may be open for a while at first. Twice, because
	// a replica that died just now may have been at it.
	patience := 2*(w.numbers.lease()+lateTo) + w.numbers.hold + 25*time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		rows, err := w.rows(ctx)
		if err != nil {
			return err
		}
		open := slices.DeleteFunc(slices.Clone(w.connections), func(c *connection) bool {
			r := rows[c.uuid()]
			return !r.Open && r.Status != "suspect"
		})
		if len(open) == 0 {
			return nil
		}
		ids := make([]string, 0, len(open))
		for _, c := range open {
			ids = append(ids, c.uuid())
		}
		// Time passes for their access tokens: what is suspect may be presented once more.
		_, err = w.db.admin.Exec(ctx, `UPDATE connections SET access_issued_at = app.wall_clock() - interval '1 hour 1 second',
			access_expires_at = app.wall_clock() - interval '1 second' WHERE id = ANY ($1::uuid[])
			AND status IN ('active', 'suspect') AND access_expires_at > app.wall_clock() AND intent_generation IS NOT NULL`, ids)
		if err != nil {
			return fmt.Errorf("age open connections: %w", err)
		}
		err = w.each(ctx, open, func(ctx context.Context, c *connection) error {
			_, _ = w.projects(ctx, w.pick(), c) // what came of it the row tells
			return nil
		})
		if err != nil {
			return err
		}
		if pause(ctx, 300*time.Millisecond) != nil {
			return nil // the comparison says which are still open
		}
	}
}

// renewAll lets every connection expire and be renewed.
func (w *world) renewAll(ctx context.Context) error {
	ids := make([]string, 0, len(w.connections))
	for _, c := range w.connections {
		ids = append(ids, c.uuid())
	}
	if _, err := w.db.age(ctx, -time.Second, ids...); err != nil {
		return err
	}
	return w.each(ctx, w.connections, func(ctx context.Context, c *connection) error {
		for try := 0; ; try++ {
			status, err := w.projects(ctx, w.pick(), c)
			if status == http.StatusOK || status == http.StatusConflict || try == 20 {
				return err
			}
			if err := pause(ctx, 250*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

// reconnect lets the users of lost connections connect again: the next scenario starts
// with as many as the one before.
func (b *board) reconnect(ctx context.Context, w *world, found comparison) error {
	for _, c := range append(found.silent, found.lost...) {
		if err := w.connect(ctx, c); err != nil {
			return fmt.Errorf("connect %s again: %w", c.user, err)
		}
	}
	return w.findGrants(ctx)
}
