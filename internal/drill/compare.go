package drill

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
)

// row is a connection as the database has it.
type row struct {
	ID         string
	Status     string
	Reason     string
	Generation int64
	Open       bool // an intent without an end
}

// token is a refresh token as the simulator's ledger has it.
type token struct {
	Grant     string `json:"grant"`
	Received  int    `json:"received"`
	Processed int    `json:"processed"`
	Answered  int    `json:"answered"`
	State     string `json:"state"`
}

// evidence is what one connection is judged by.
type evidence struct {
	row     row
	base    int64         // the generation of the grant's first token
	live    bool          // its grant, at Prisma
	tokens  []token       // of the grant, the oldest first: one for each generation since base
	sent    bool          // the stored token was presented, and the answer sent whole
	exposed bool          // its replica died, or stood still for longer than the lease, with this generation in hand
	late    bool          // it stood still with the generation before in hand, whose answer it has stored since
	retried map[int64]int // late retries of each generation, by the service's own account
	leeway  bool          // a used token gave another pair, so that tokens and generations don't match
}

// verdict is what became of one connection.
type verdict string

const (
	// works: the service says so, and Prisma too.
	works verdict = "works"
	// unsettled: the outcome of a refresh is still open.
	unsettled verdict = "unsettled"
	// lostUnanswered: Prisma used the token up, and its answer did not arrive.
	lostUnanswered verdict = "lost, answer never sent"
	// lostWithProcess: Prisma used the token up, and the process that waited for the
	// answer died or stood still for too long before it could store it.
	lostWithProcess verdict = "lost with its process"
	// avoidable: lost, and nothing of that kind had happened. A token that went unanswered,
	// however often, is good as long as Prisma has not used it.
	avoidable verdict = "lost for no reason"
	// silent: the service says that it works, and it does not.
	silent verdict = "dead, and the service does not say so"
)

// judge compares one connection with the simulator's ledger.
func judge(e evidence) verdict {
	current := int(e.row.Generation - e.base) // which token is the stored one
	switch e.row.Status {
	case "needs_reconnect":
		if current < 0 || current >= len(e.tokens) {
			return avoidable
		}
		used := e.tokens[current]
		switch {
		case e.overtaken():
			return lostWithProcess
		case e.exposed && used.Processed > 0:
			return lostWithProcess
		case used.Processed > 0 && !e.sent:
			return lostUnanswered
		}
		return avoidable
	case "active":
		if e.row.Open {
			return unsettled
		}
		if !e.live || !e.leeway && current != len(e.tokens)-1 {
			return silent
		}
		return works
	}
	return unsettled // suspect
}

// overtaken reports whether a replica stood still for longer than its lease with the answer
// in its socket: another one presented the token late, Prisma revoked the grant, and what
// the first one then stored was dead already.
func (e evidence) overtaken() bool {
	current := int(e.row.Generation - e.base)
	return e.late && current > 0 && current < len(e.tokens) && e.tokens[current].State == "revoked" &&
		e.tokens[current-1].Processed > 0 && e.tokens[current-1].Received > 1
}

// unstored reports whether Prisma used the stored token up and its answer either was
// never sent, or came to a process that died or stood still for too long.
func (e evidence) unstored() bool {
	current := int(e.row.Generation - e.base)
	return e.overtaken() || current >= 0 && current < len(e.tokens) && e.tokens[current].Processed > 0 && (!e.sent || e.exposed)
}

// repeats counts the tokens that were presented more often than the rules allow: once,
// and once more for each late retry in the service's own ledger.
func repeats(e evidence) (n int) {
	for i, t := range e.tokens {
		most := 1 + e.retried[e.base+int64(i)]
		if e.leeway { // tokens and generations don't match
			most = max(most, 2)
		}
		if t.Received > most {
			n++
		}
	}
	return n
}

// comparison is the sum of all verdicts.
type comparison struct {
	verdicts map[verdict]int
	lost     []*connection // the service says so
	silent   []*connection // it does not
	repeated int
	strange  []string // a line for each verdict that should not be
	unstored int      // connections whose stored token Prisma used up, and whose answer could not be stored
}

// compare judges every connection.
func (w *world) compare(ctx context.Context, leeway bool) (comparison, error) {
	rows, err := w.rows(ctx)
	if err != nil {
		return comparison{}, err
	}
	tokens, err := w.tokens(ctx)
	if err != nil {
		return comparison{}, err
	}
	grants, err := w.grants(ctx)
	if err != nil {
		return comparison{}, err
	}
	live := make(map[string]bool)
	for _, g := range grants {
		live[g.ID] = g.State == "live"
	}
	retried, err := w.retries(ctx)
	if err != nil {
		return comparison{}, err
	}
	result := comparison{verdicts: make(map[verdict]int)}
	for _, c := range w.connections {
		e := evidence{
			row: rows[c.uuid()], base: c.base, live: live[c.grant], tokens: tokens[c.grant],
			retried: retried[c.uuid()], leeway: leeway,
		}
		generation, ok := w.exposed[c.uuid()]
		e.exposed = ok && generation == e.row.Generation
		e.late = ok && generation == e.row.Generation-1
		for i := range e.tokens { // those that met a dead endpoint, the simulator never saw
			presented, _ := w.plat.fate(c.first, i)
			e.tokens[i].Received = max(e.tokens[i].Received, presented)
		}
		_, e.sent = w.plat.fate(c.first, int(e.row.Generation-e.base))
		what := judge(e)
		result.verdicts[what]++
		result.repeated += repeats(e)
		if e.unstored() {
			result.unstored++
		}
		if what == avoidable || what == silent || what == unsettled {
			result.strange = append(result.strange, fmt.Sprintf("%s: %s (%s, generation %d since %d, grant live: %t, tokens %+v)",
				c.id, what, e.row.Status+" "+e.row.Reason, e.row.Generation, e.base, e.live, last(e.tokens, 3)))
		}
		switch what {
		case works, unsettled:
		case silent:
			result.silent = append(result.silent, c)
		case lostUnanswered, lostWithProcess, avoidable:
			result.lost = append(result.lost, c)
		}
	}
	return result, nil
}

// gone is how many connections were lost, for whatever reason.
func (c comparison) gone() int { return len(c.lost) + len(c.silent) }

func (c comparison) String() string {
	parts := []string{fmt.Sprintf("%d work", c.verdicts[works])}
	for _, v := range []verdict{lostUnanswered, lostWithProcess, avoidable, silent, unsettled} {
		if n := c.verdicts[v]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, v))
		}
	}
	return strings.Join(parts, ", ")
}

func last[T any](all []T, n int) []T { return all[max(0, len(all)-n):] }

// rows reads every connection.
func (w *world) rows(ctx context.Context) (map[string]row, error) {
	found, err := list(ctx, w.db, pgx.RowToStructByPos[row], `
		SELECT id::text, status, coalesce(status_reason, ''), generation, intent_generation IS NOT NULL FROM connections`)
	if err != nil {
		return nil, err
	}
	rows := make(map[string]row, len(found))
	for _, one := range found {
		rows[one.ID] = one
	}
	return rows, nil
}

// tokens reads the simulator's ledger, by grant.
func (w *world) tokens(ctx context.Context) (map[string][]token, error) {
	var view struct {
		RefreshTokens []token `json:"refreshTokens"`
	}
	if err := w.plat.control(ctx, http.MethodGet, "ledger", nil, &view); err != nil {
		return nil, err
	}
	byGrant := make(map[string][]token)
	for _, t := range view.RefreshTokens { // the oldest first
		byGrant[t.Grant] = append(byGrant[t.Grant], t)
	}
	return byGrant, nil
}

// retries reads how often the service presented which generations late, by its own account.
func (w *world) retries(ctx context.Context) (map[string]map[int64]int, error) {
	type retry struct {
		ID         string
		Generation int64
		Times      int
	}
	found, err := list(ctx, w.db, pgx.RowToStructByPos[retry], `
		SELECT connection_id::text, generation, count(*) FROM refresh_ledger WHERE entry = 'begun' AND late_retry GROUP BY 1, 2`)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]map[int64]int)
	for _, one := range found {
		if byID[one.ID] == nil {
			byID[one.ID] = make(map[int64]int)
		}
		byID[one.ID][one.Generation] = one.Times
	}
	return byID, nil
}

// announcements counts the connections whose losses were not told exactly once each, by
// an event and by an audit row.
func (w *world) announcements(ctx context.Context) (wrong int, err error) {
	type count struct {
		ID    string
		Times int
	}
	const kind = "connection.needs_reconnect"
	for _, sql := range []string{
		`SELECT data->>'connectionId', count(*) FROM events WHERE type = $1 GROUP BY 1`,
		`SELECT target, count(*) FROM audit_log WHERE action = $1 GROUP BY 1`,
	} {
		found, err := list(ctx, w.db, pgx.RowToStructByPos[count], sql, kind)
		if err != nil {
			return 0, err
		}
		told := make(map[string]int, len(found))
		for _, one := range found {
			told[one.ID] = one.Times
		}
		for _, c := range w.connections {
			if told[c.id.String()] != c.lost {
				wrong++
			}
		}
	}
	return wrong, nil
}
