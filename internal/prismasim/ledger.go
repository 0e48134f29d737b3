package prismasim

import (
	"time"
)

// ledgerView is GET /_control/ledger: counts, no secrets.
type ledgerView struct {
	Counters      tallies       `json:"counters"`
	RefreshTokens []ledgerToken `json:"refreshTokens"`
}

// ledgerToken is one refresh token: how often it was received, how often a new
// pair was made for it, how often that pair was answered whole to a client that
// was still there. State is live, used, revoked or expired.
type ledgerToken struct {
	ID        string `json:"id"`
	Grant     string `json:"grant"`
	Received  int    `json:"received"`
	Processed int    `json:"processed"`
	Answered  int    `json:"answered"`
	State     string `json:"state"`
}

// grantView is a row of GET /_control/grants. State is live or revoked.
type grantView struct {
	ID          string `json:"id"`
	ClientID    string `json:"clientId"`
	UserID      string `json:"userId"`
	WorkspaceID string `json:"workspaceId"`
	State       string `json:"state"`
	Reason      string `json:"reason,omitempty"`
}

// States of tokens and grants.
const (
	stateLive    = "live"
	stateUsed    = "used"
	stateRevoked = "revoked"
	stateExpired = "expired"
)

// tokenState tells what a refresh token is good for. Used wins over revoked: it
// says who presented what, which is what the ledger is read for.
func (st *state) tokenState(t refreshToken, now time.Time) string {
	g := st.grants.rows[t.GrantID]
	switch {
	case !t.UsedAt.IsZero():
		return stateUsed
	case g.Revoked:
		return stateRevoked
	case !now.Before(t.ExpiresAt):
		return stateExpired
	}
	return stateLive
}

func viewGrant(g grant) grantView {
	view := grantView{
		ID: g.ID, ClientID: g.ClientID, UserID: g.UserID, WorkspaceID: g.WorkspaceID, State: stateLive, Reason: g.Reason,
	}
	if g.Revoked {
		view.State = stateRevoked
	}
	return view
}

// storeTallies changes the counters under the write lock. The count of API
// requests rises without a lock and is stored whenever the others are: a killed
// process may forget the last of it.
func (s *Simulator) storeTallies(st *state, change func(*tallies)) {
	current, _ := st.tallies.get(only)
	change(&current)
	current.APIRequests = s.apiRequests.Load()
	st.tallies.set(only, current)
}

// revoke ends a grant and all its tokens, and with the last grant of a client in
// a workspace the integration. It counts one revocation; a grant that is not
// live is left alone.
func (s *Simulator) revoke(st *state, grantID, reason string) {
	g, ok := st.grants.get(grantID)
	if !ok || g.Revoked {
		return
	}
	g.Revoked, g.Reason = true, reason
	st.grants.set(grantID, g)
	s.storeTallies(st, func(t *tallies) { t.Revocations++ })
	for _, other := range st.grants.under(integrationKey(g.WorkspaceID, g.ClientID)) {
		if !other.Revoked {
			return
		}
	}
	if row, ok := st.integrationOf(g.WorkspaceID, g.ClientID); ok {
		st.integrations.remove(row.ID)
	}
}

// integrationOf finds the integration of a client in a workspace.
func (st *state) integrationOf(workspaceID, clientID string) (integration, bool) {
	for _, row := range st.integrations.under(workspaceID) {
		if row.ClientID == clientID {
			return row, true
		}
	}
	return integration{}, false
}
