package tenants

import (
	"cmp"
	"time"
)

// DiagnosisCode names what is to be said of a connection, for programs. The codes are
// part of the public API.
type DiagnosisCode string

// The codes, in the order of the documentation.
const (
	DiagnosisHealthy        DiagnosisCode = "healthy"
	DiagnosisFailing        DiagnosisCode = "renewal-failing"         // no answer to renewals; nothing is lost
	DiagnosisUnconfirmed    DiagnosisCode = "renewal-unconfirmed"     // a renewal may have happened or not
	DiagnosisStopped        DiagnosisCode = "renewals-stopped"        // the database may be a copy
	DiagnosisUnreadable     DiagnosisCode = "tokens-unreadable"       // the stored pair can't be opened with our keys
	DiagnosisClientRefused  DiagnosisCode = "client-refused"          // Prisma refuses the OAuth client, not the user
	DiagnosisUnreachable    DiagnosisCode = "prisma-unreachable"      // a check got no answer
	DiagnosisAccessRefused  DiagnosisCode = "access-refused"          // a check's access token was refused
	DiagnosisNoRefreshToken DiagnosisCode = "no-refresh-token"        // nothing can renew it
	DiagnosisClientReplaced DiagnosisCode = "client-replaced"         // another OAuth client since
	DiagnosisRefused        DiagnosisCode = "refresh-token-refused"   // Prisma ended it, or the user did
	DiagnosisUnknown        DiagnosisCode = "refresh-outcome-unknown" // an answer was lost for good
	DiagnosisDisconnected   DiagnosisCode = "disconnected"
)

// DiagnosisCodes returns every code in the order of the documentation.
func DiagnosisCodes() []DiagnosisCode {
	return []DiagnosisCode{
		DiagnosisHealthy, DiagnosisFailing, DiagnosisUnconfirmed, DiagnosisStopped, DiagnosisUnreadable,
		DiagnosisClientRefused, DiagnosisUnreachable, DiagnosisAccessRefused, DiagnosisNoRefreshToken, DiagnosisClientReplaced,
		DiagnosisRefused, DiagnosisUnknown, DiagnosisDisconnected,
	}
}

// DiagnosisAction says who must act.
type DiagnosisAction string

// The actions.
const (
	ActionNone      DiagnosisAction = "none"      // nobody
	ActionWait      DiagnosisAction = "wait"      // nobody; time or the service mends it
	ActionReconnect DiagnosisAction = "reconnect" // the user, through a connect session with the connection's id
	ActionOperator  DiagnosisAction = "operator"  // whoever runs the service
)

// Action says who must act on a code.
func (c DiagnosisCode) Action() DiagnosisAction {
	switch c {
	case DiagnosisHealthy, DiagnosisDisconnected:
		return ActionNone
	case DiagnosisFailing, DiagnosisUnconfirmed, DiagnosisUnreachable, DiagnosisAccessRefused:
		return ActionWait
	case DiagnosisStopped, DiagnosisUnreadable, DiagnosisClientRefused:
		return ActionOperator
	case DiagnosisNoRefreshToken, DiagnosisClientReplaced, DiagnosisRefused, DiagnosisUnknown:
	}
	return ActionReconnect
}

// Diagnosis says how a connection is and who must act.
type Diagnosis struct {
	Code    DiagnosisCode
	Message string // one or two sentences for people
	Action  DiagnosisAction
	Since   time.Time // since when it is so, as far as is known
}

const (
	// findingHolds is how long what a check found is told, unless another one finds
	// something else: trouble at Prisma passes.
	findingHolds = 5 * time.Minute
	// failureHolds is how long a failed renewal is told that nobody tried again.
	failureHolds = time.Hour
	// dueAt is the share of its life after which an access token is about to be renewed.
	dueAt = 0.75
)

// Signs are what a connection's row tells of its health beside the status. Times are
// the database's.
type Signs struct {
	ReadAt    time.Time // when the row was read
	IssuedAt  time.Time // when the current pair was asked for
	Renewable bool      // there is a refresh token
	Exchange  bool      // a refresh token was sent, and what became of it isn't stored
	Leased    bool      // somebody is waiting for the answer to that
	SetBack   bool      // the ledger knows a newer pair than the row has
	Client    string    // the tenant's own OAuth client today; "": the shared one

	// TenantChangedAt is when something about the tenant last changed.
	TenantChangedAt time.Time

	// FailingSince is when renewals of the current pair began to fail without spending
	// its refresh token; zero: they don't.
	FailingSince time.Time
	// NotBefore is when the next renewal may be tried, soon after the last one failed;
	// zero: at any time.
	NotBefore time.Time
	// Misconfigured: Prisma refused our client, or wants to hear less of it.
	Misconfigured bool

	CheckedAt time.Time // when a check of the current pair ended; zero: never
	Finding   Finding   // what it found

	// Sealed are the access and the refresh token as they are stored, to see whether they
	// can be opened.
	Sealed [2][]byte
}

// Usable reports whether calls work, as far as the row tells.
func (c Connection) Usable() bool {
	return (c.Status == ConnectionActive || c.Status == ConnectionSuspect) && c.Signs.ReadAt.Before(c.AccessUntil)
}

// UsableUntil is how long calls work, at least, whatever happens to Prisma's token
// endpoint: until the access token ends or, of a connection that ended before, until
// then.
func (c Connection) UsableUntil() time.Time {
	broken := c.Status == ConnectionNeedsReconnect || c.Status == ConnectionDisconnected
	if broken && c.StatusSince.Before(c.AccessUntil) {
		return c.StatusSince
	}
	return c.AccessUntil
}

// Diagnose says how a connection is. endpointDown is since when this process leaves
// Prisma's token endpoint alone; zero: it doesn't.
func (s *Store) Diagnose(c Connection, endpointDown time.Time) Diagnosis {
	code, since := s.symptom(c, endpointDown)
	if since.IsZero() {
		since = c.StatusSince
	}
	message := code.message(c.Usable())
	if _, everything := s.stopped(); code == DiagnosisStopped && !everything {
		message = pick(c.Usable(), "This service knows newer tokens of this connection than its database has, and renews it only when its operator has looked at that. It works until its access ends.",
			"This service knows newer tokens of this connection than its database has, and renews it only when its operator has looked at that.")
	}
	if code == DiagnosisUnconfirmed && !c.Usable() && c.Signs.NotBefore.After(c.Signs.ReadAt) {
		message += " The next time is at " + c.Signs.NotBefore.UTC().Format(time.TimeOnly) + " UTC or soon after."
	}
	return Diagnosis{Code: code, Message: message, Action: code.Action(), Since: since}
}

// symptom finds the most pressing thing there is to say, and since when it is so; zero:
// since the status.
func (s *Store) symptom(c Connection, endpointDown time.Time) (DiagnosisCode, time.Time) {
	switch c.Status {
	case ConnectionDisconnected:
		return DiagnosisDisconnected, time.Time{}
	case ConnectionNeedsReconnect:
		return reconnectCode(c.Reason), time.Time{}
	case ConnectionActive, ConnectionSuspect:
	}
	signs := c.Signs
	switch stopped, yes := s.stopped(); {
	case s.unreadable(c): // it can't even be used, whatever else there is to say
		return DiagnosisUnreadable, signs.ReadAt
	// Then what only the user can mend: nothing that others do helps.
	case !signs.Renewable:
		return DiagnosisNoRefreshToken, signs.IssuedAt
	case s.clientReplaced(c):
		return DiagnosisClientReplaced, signs.TenantChangedAt
	case yes:
		return DiagnosisStopped, stopped
	case signs.SetBack:
		return DiagnosisStopped, signs.ReadAt
	case c.Status == ConnectionSuspect:
		return DiagnosisUnconfirmed, time.Time{}
	case signs.Exchange && !signs.Leased:
		// Whoever sent it is gone, and nobody has looked since.
		return DiagnosisUnconfirmed, signs.ReadAt
	}
	if signs.ReadAt.Sub(signs.CheckedAt) < findingHolds {
		switch signs.Finding {
		case FindingRefused:
			return DiagnosisAccessRefused, signs.CheckedAt
		case FindingUnreachable:
			return DiagnosisUnreachable, signs.CheckedAt
		case FindingNotRenewed:
			return DiagnosisFailing, earlier(signs.FailingSince, signs.CheckedAt)
		case FindingWorks, FindingNothing:
		}
	}
	if !signs.FailingSince.IsZero() && (signs.Leased || signs.ReadAt.Sub(signs.NotBefore) < failureHolds) {
		if signs.Misconfigured {
			return DiagnosisClientRefused, signs.FailingSince
		}
		return DiagnosisFailing, signs.FailingSince
	}
	if !endpointDown.IsZero() && c.due() {
		return DiagnosisFailing, endpointDown
	}
	return DiagnosisHealthy, time.Time{}
}

// due reports whether the access token is about to be renewed.
func (c Connection) due() bool {
	life := c.AccessUntil.Sub(c.Signs.IssuedAt)
	return c.Signs.ReadAt.Sub(c.Signs.IssuedAt) >= time.Duration(dueAt*float64(life))
}

// clientReplaced reports whether the grant was given to another OAuth client than the
// tenant has now, so that nothing may renew it.
func (s *Store) clientReplaced(c Connection) bool {
	current := cmp.Or(c.Signs.Client, s.shared.id())
	return current != "" && current != c.ClientID
}

// unreadable reports whether the stored pair can't be opened: it was sealed under a key
// that this process does not have, or for another place.
func (s *Store) unreadable(c Connection) bool {
	t := s.TokensOf(c.Tenant, c.ID)
	_, access := t.open("access_token", c.Generation, c.Signs.Sealed[0])
	_, refresh := t.open("refresh_token", c.Generation, c.Signs.Sealed[1])
	return access != nil || refresh != nil
}

// stopped returns since when this process sends no token request because an operator
// has to decide about the database, and whether that is so.
func (s *Store) stopped() (time.Time, bool) {
	s.fence.mu.Lock()
	defer s.fence.mu.Unlock()
	if s.fence.said == fenceOpen || s.fence.said == fenceFailover { // which settles by itself
		return time.Time{}, false
	}
	return s.fence.saidAt, true
}

// reconnectCode is the code of the reason in a row.
func reconnectCode(reason string) DiagnosisCode {
	switch reason {
	case ReasonUnknown:
		return DiagnosisUnknown
	case ReasonNoRefreshToken:
		return DiagnosisNoRefreshToken
	case ReasonClientReplaced:
		return DiagnosisClientReplaced
	}
	return DiagnosisRefused
}

// message says a code to people; usable tells whether calls still work.
func (c DiagnosisCode) message(usable bool) string {
	switch c {
	case DiagnosisHealthy:
		return "The connection works."
	case DiagnosisFailing:
		return pick(usable, "Prisma does not answer when this connection is to be renewed. It works until its access ends, and is renewed as soon as Prisma answers.",
			"Prisma does not answer when this connection is to be renewed. It works again as soon as Prisma answers.")
	case DiagnosisUnconfirmed:
		return pick(usable, "Prisma's answer to a renewal of this connection got lost. It works until its access ends; then the renewal is tried again until Prisma answers.",
			"Prisma's answer to a renewal of this connection got lost. The renewal is tried again, with pauses of up to an hour, until Prisma answers.")
	case DiagnosisStopped:
		return pick(usable, "This service renews no connection until its operator has looked at its database. The connection works until its access ends.",
			"This service renews no connection until its operator has looked at its database.")
	case DiagnosisUnreadable:
		return "This service can't open the connection's stored tokens with the keys that it has, and sends nothing. It works again when its operator has given the missing key back, or when the user connects again."
	case DiagnosisClientRefused:
		return pick(usable, "Prisma refuses this service's request to renew the connection; the user can't mend that. It works until its access ends.",
			"Prisma refuses this service's request to renew the connection; the user can't mend that.")
	case DiagnosisUnreachable:
		return "Prisma did not answer when this connection was checked. Calls may fail until it does."
	case DiagnosisAccessRefused:
		return "Prisma refused this connection's access when it was checked. It is asked for new access within a minute; if the refusal stays, the user has to connect again."
	case DiagnosisNoRefreshToken:
		return pick(usable, "The connection was made without lasting access and ends soon. The user has to connect again.",
			"The connection was made without lasting access and has ended. The user has to connect again.")
	case DiagnosisClientReplaced:
		return pick(usable, "The connection was made with an OAuth client that has been replaced, and can't be renewed. The user has to connect again.",
			"The connection was made with an OAuth client that has been replaced, and has ended. The user has to connect again.")
	case DiagnosisUnknown:
		return "Prisma's answer to a renewal of this connection got lost, and none came until its access could not be renewed any more. The user has to connect again."
	case DiagnosisDisconnected:
		return "The connection was ended on purpose."
	case DiagnosisRefused:
	}
	return "Prisma no longer accepts this connection, as when the user removes it there. The user has to connect again."
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// orZero is the time, zero for none.
func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// earlier returns the earlier of two times; a zero one doesn't count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
