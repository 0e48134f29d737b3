package prismasim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// control answers one /_control request: the state that results, as JSON.
type control func(ctx context.Context, body []byte) (any, error)

// controlError is a control request that cannot be followed: 400.
type controlError struct{ message string }

// Error returns the message as sent.
func (e *controlError) Error() string { return e.message }

// controlRoutes serves /_control to clients on this machine, and to no page of
// another origin in a browser there.
func (s *Simulator) controlRoutes() http.Handler {
	mux := http.NewServeMux()
	for pattern, do := range map[string]control{
		"GET /_control/ledger":                s.getLedger,
		"GET /_control/grants":                s.getGrants,
		"GET /_control/faults":                s.getFaults,
		"GET /_control/consent":               s.getConsent,
		"GET /_control/clock":                 s.getClock,
		"PUT /_control/faults":                s.putFaults,
		"PUT /_control/consent":               s.putConsent,
		"PUT /_control/seed":                  s.putSeed,
		"POST /_control/clock":                s.postClock,
		"POST /_control/reset":                s.postReset,
		"POST /_control/revoke":               s.postRevoke,
		"POST /_control/backup":               s.postBackup,
		"POST /_control/expire-access-tokens": s.postExpire,
	} {
		mux.HandleFunc(pattern, s.control(do))
	}
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "The control interface answers to this machine alone.", http.StatusForbidden)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

func (s *Simulator) control(do control) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		if err != nil {
			err = &controlError{"the body cannot be read"}
		}
		var result any
		if err == nil {
			// Its effects must be whole even if the client leaves.
			result, err = do(context.WithoutCancel(r.Context()), bytes.TrimSpace(body))
		}
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			if _, ok := errors.AsType[*controlError](err); ok {
				status = http.StatusBadRequest
			}
			result = map[string]any{"error": map[string]string{"message": err.Error()}}
		}
		s.writeJSON(w, r, status, result)
	}
}

// readControl decodes a body strictly: one JSON object, no unknown key. An empty
// body leaves v as it is.
func readControl(body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return &controlError{"the body does not fit: " + err.Error()}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return &controlError{"the body has something behind its JSON object"}
	}
	return nil
}

// getLedger serves GET /_control/ledger.
func (s *Simulator) getLedger(context.Context, []byte) (any, error) {
	view := ledgerView{RefreshTokens: []ledgerToken{}}
	now := s.clock.now()
	s.read(func(st *state) {
		view.Counters, _ = st.tallies.get(only)
		rows := make([]refreshToken, 0, len(st.refreshTokens.rows))
		for _, row := range st.refreshTokens.rows {
			rows = append(rows, row)
		}
		slices.SortFunc(rows, func(a, b refreshToken) int { return int(a.Seq) - int(b.Seq) }) //nolint:gosec // G115: counts of tokens
		for _, row := range rows {
			view.RefreshTokens = append(view.RefreshTokens, ledgerToken{
				ID: row.ID, Grant: row.GrantID, Received: row.Received, Processed: row.Processed, Answered: row.Answered,
				State: st.tokenState(row, now),
			})
		}
	})
	view.Counters.APIRequests = s.apiRequests.Load()
	return view, nil
}

// getGrants serves GET /_control/grants, oldest first.
func (s *Simulator) getGrants(context.Context, []byte) (any, error) {
	views := []grantView{}
	s.read(func(st *state) {
		rows := make([]grant, 0, len(st.grants.rows))
		for _, row := range st.grants.rows {
			rows = append(rows, row)
		}
		slices.SortFunc(rows, func(a, b grant) int { return int(a.Seq) - int(b.Seq) }) //nolint:gosec // G115: counts of grants
		for _, row := range rows {
			views = append(views, viewGrant(row))
		}
	})
	return map[string]any{"grants": views}, nil
}

// getFaults serves GET /_control/faults.
func (s *Simulator) getFaults(context.Context, []byte) (any, error) {
	return s.settings().Faults, nil
}

// getConsent serves GET /_control/consent.
func (s *Simulator) getConsent(context.Context, []byte) (any, error) {
	return s.settings().Consent, nil
}

// putFaults serves PUT /_control/faults; a key left out keeps its value.
func (s *Simulator) putFaults(ctx context.Context, body []byte) (any, error) {
	var result Faults
	err := s.changeSettings(ctx, func(current *settings) error {
		next := current.Faults
		if err := readControl(body, &next); err != nil {
			return err
		}
		if err := next.validate(); err != nil {
			return &controlError{err.Error()}
		}
		current.Faults, result = next, next
		return nil
	})
	return result, err
}

// putConsent serves PUT /_control/consent.
func (s *Simulator) putConsent(ctx context.Context, body []byte) (any, error) {
	var next consent
	if err := readControl(body, &next); err != nil {
		return nil, err
	}
	switch next.Mode {
	case consentPage, consentApprove, consentDeny:
	default:
		return nil, &controlError{fmt.Sprintf("mode must be page, approve or deny, not %q", next.Mode)}
	}
	if next.WorkspaceID != "" {
		next.WorkspaceID = canonicalID(prefixWorkspace, next.WorkspaceID)
		known := false
		s.read(func(st *state) { _, _, known = st.choose(next.WorkspaceID) })
		if !known {
			return nil, &controlError{"no user has the workspace " + next.WorkspaceID}
		}
	}
	return next, s.changeSettings(ctx, func(current *settings) error {
		current.Consent = next
		return nil
	})
}

// changeSettings changes the switches; when change fails they stay.
func (s *Simulator) changeSettings(ctx context.Context, change func(*settings) error) error {
	return s.write(ctx, func(st *state) error {
		current, _ := st.settings.get(only)
		if err := change(&current); err != nil {
			return err
		}
		st.settings.set(only, current)
		return nil
	})
}

// clockView is the simulator's time and how far it was moved.
type clockView struct {
	Now    time.Time `json:"now"`
	Offset Duration  `json:"offset"`
}

// getClock serves GET /_control/clock.
func (s *Simulator) getClock(context.Context, []byte) (any, error) {
	return clockView{Now: s.clock.now(), Offset: Duration(s.clock.offset.Load())}, nil
}

// postClock serves POST /_control/clock {"advance": "1h"}. Whoever keeps time
// with the simulator moves first; if that fails, nothing moves here.
func (s *Simulator) postClock(ctx context.Context, body []byte) (any, error) {
	var order struct {
		Advance Duration `json:"advance"`
	}
	if err := readControl(body, &order); err != nil {
		return nil, err
	}
	if order.Advance <= 0 {
		return nil, &controlError{"advance must be a duration above 0: time does not run back"}
	}
	by := time.Duration(order.Advance)
	if s.onAdvance != nil {
		if err := s.onAdvance(ctx, by); err != nil {
			return nil, fmt.Errorf("the clock that goes with the simulator's did not move: %w", err)
		}
	}
	err := s.changeSettings(ctx, func(current *settings) error {
		current.Offset += by
		s.clock.offset.Store(int64(current.Offset))
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.wakeLander()
	return s.getClock(ctx, nil)
}

// postRevoke serves POST /_control/revoke {"grant"}.
func (s *Simulator) postRevoke(ctx context.Context, body []byte) (any, error) {
	var order struct {
		Grant string `json:"grant"`
	}
	if err := readControl(body, &order); err != nil {
		return nil, err
	}
	var view grantView
	err := s.write(ctx, func(st *state) error {
		if _, ok := st.grants.get(order.Grant); !ok {
			return &controlError{"there is no such grant: GET /_control/grants lists them"}
		}
		s.revoke(st, order.Grant, "revoked by control")
		view = viewGrant(st.grants.rows[order.Grant])
		return nil
	})
	return view, err
}

// postExpire serves POST /_control/expire-access-tokens {"grant"?}: access tokens
// are refused from now on; refresh tokens are not touched.
func (s *Simulator) postExpire(ctx context.Context, body []byte) (any, error) {
	var order struct {
		Grant string `json:"grant"`
	}
	if err := readControl(body, &order); err != nil {
		return nil, err
	}
	expired := 0
	err := s.write(ctx, func(st *state) error {
		if _, ok := st.grants.get(order.Grant); order.Grant != "" && !ok {
			return &controlError{"there is no such grant: GET /_control/grants lists them"}
		}
		now := s.clock.now()
		for hash, row := range st.accessTokens.rows {
			if (order.Grant == "" || row.GrantID == order.Grant) && now.Before(row.ExpiresAt) {
				row.ExpiresAt = now
				st.accessTokens.set(hash, row)
				expired++
			}
		}
		return nil
	})
	return map[string]int{"expired": expired}, err
}

// postBackup serves POST /_control/backup {"databaseId"}: a backup of the
// database as it is now. Sessions in it are ended by the copy.
func (s *Simulator) postBackup(ctx context.Context, body []byte) (any, error) {
	var order struct {
		DatabaseID string `json:"databaseId"`
	}
	if err := readControl(body, &order); err != nil {
		return nil, err
	}
	row, err := s.takeBackup(ctx, order.DatabaseID)
	if fault, ok := errors.AsType[*apiError](err); ok {
		return nil, &controlError{fault.message}
	}
	return viewBackup(row), err
}
