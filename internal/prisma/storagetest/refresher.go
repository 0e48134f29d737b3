package storagetest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// overdue is an age at which an access token has expired long ago, and ageing one at
// which it is refreshed in the background.
const (
	overdue = 2 * life
	ageing  = 52 * time.Minute
)

// refresher is a refresher of a process of its own, which knows nothing of earlier ones
// and logs to out.
func (b *bench) refresher(e *endpoint, out *bytes.Buffer) *prisma.Refresher {
	b.Helper()
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: e.url})
	b.ok("NewOAuth()", err)
	logger := slog.New(slog.DiscardHandler)
	if out != nil {
		logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: b.Now, Logger: logger})
	b.ok("NewRefresher()", err)
	return r
}

// connection is a storage as refreshers want it.
func connection(s prisma.TokenStorage) prisma.Connection {
	return prisma.Connection{Key: "connection", Storage: s, Client: func(context.Context) (prisma.OAuthClient, error) {
		return prisma.OAuthClient{ID: "client"}, nil
	}}
}

// accessToken asks a new refresher for the access token.
func (b *bench) accessToken(e *endpoint) (prisma.Tokens, error) {
	b.Helper()
	return b.refresher(e, nil).AccessToken(b.Context(), connection(b.Storage))
}

// refresherTests are those that any storage passes under a refresher.
func refresherTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"refresher: many callers, one exchange": func(b *bench) {
			b.storm(1, 40)
		},
		"refresher: the pair handed out is stored": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", nil)
			got, err := b.accessToken(e)
			if err != nil || got.Access != "access-first" {
				b.Errorf("AccessToken() of a young pair = %v, %v", got, err)
			}
			for _, want := range []string{"exchange-1", "exchange-2", "exchange-3"} {
				b.Advance(b.T, overdue)
				got, err := b.accessToken(e)
				if err != nil || got.Access != "access-"+want || got.WorkspaceID != Workspace {
					b.Errorf("AccessToken() = %v, %v; want %s", got, err, want)
				}
				b.wantStored("a refresh", want)
			}
			b.wantRequests(e, 3, 0)
		},
		"refresher: a dead grant": func(b *bench) {
			e := startEndpoint(b.T, "refresh-of-another", nil)
			b.Advance(b.T, overdue)
			_, err := b.accessToken(e)
			b.wantKind("AccessToken()", err, fault.ReconnectRequired)
			b.wantGone("a dead grant", fault.NotFound, fault.ReconnectRequired)
			_, err = b.accessToken(e)
			b.wantKind("AccessToken() again", err, fault.NotFound, fault.ReconnectRequired)
			b.wantRequests(e, 1, 1)
		},
		"refresher: a failure that left the token alone": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", first(failBefore))
			b.Advance(b.T, overdue)
			_, err := b.accessToken(e)
			b.wantKind("AccessToken()", err, fault.PrismaUnavailable)
			b.wantStored("a failure", "first")
			if got, err := b.accessToken(e); err != nil || got.Access != "access-exchange-2" {
				b.Errorf("AccessToken() again = %v, %v", got, err)
			}
			b.wantRequests(e, 2, 0)
		},
		"refresher: an answer that was lost": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", first(failAfter))
			b.Advance(b.T, overdue)
			_, err := b.accessToken(e)
			b.wantKind("AccessToken()", err, fault.PrismaUnavailable)
			for range 2 {
				_, err = b.accessToken(e)
				b.wantKind("AccessToken() again", err, fault.NotFound, fault.ReconnectRequired)
			}
			if _, _, received := e.counts(); received["refresh-first"] != 2 {
				b.Errorf("the refresh token was presented %d times, want twice", received["refresh-first"])
			}
		},
		"refresher: a login during the exchange": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", func(int) behaviour {
				if err := b.Other(b.T).SetTokens(b.Context(), b.pair("new")); err != nil {
					b.Errorf("SetTokens(): %v", err)
				}
				return answer
			})
			b.Advance(b.T, overdue)
			if got, err := b.accessToken(e); err != nil || got.Access != "access-new" {
				b.Errorf("AccessToken() = %v, %v; want the login's", got, err)
			}
			b.wantStored("the exchange", "new")
		},
		"refresher: a logout during the exchange": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", func(int) behaviour {
				if err := b.Other(b.T).ClearTokens(b.Context()); err != nil {
					b.Errorf("ClearTokens(): %v", err)
				}
				return answer
			})
			b.Advance(b.T, overdue)
			_, err := b.accessToken(e)
			b.wantKind("AccessToken()", err, fault.NotFound)
			b.wantGone("the exchange", fault.NotFound)
		},
		"refresher: a caller that leaves": func(b *bench) {
			ctx, leave := context.WithCancel(b.Context())
			gone := make(chan struct{})
			e := startEndpoint(b.T, "refresh-first", func(int) behaviour {
				leave()
				<-gone // or the answer may overtake the caller
				return answer
			})
			b.Advance(b.T, overdue)
			r := b.refresher(e, nil)
			_, err := r.AccessToken(ctx, connection(b.Storage))
			close(gone)
			if !errors.Is(err, context.Canceled) {
				b.Errorf("AccessToken() error = %v, want the caller's", err)
			}
			b.ok("Wait()", r.Wait(b.Context()))
			b.wantStored("an exchange whose caller left", "exchange-1")
		},
		"refresher: no secrets in errors and logs": func(b *bench) {
			var out bytes.Buffer
			for _, plan := range []func(int) behaviour{first(failBefore), first(failAfter), nil} {
				e := startEndpoint(b.T, "refresh-first", plan)
				b.set(b.Storage, b.pair("first"))
				b.Advance(b.T, overdue)
				r := b.refresher(e, &out)
				_, err := r.AccessToken(b.Context(), connection(b.Storage))
				b.ok("Wait()", r.Wait(b.Context())) // and with it the last log record
				if err != nil {
					out.WriteString(err.Error())
				}
			}
			b.wantNoSecrets("an error or the log", out.String())
		},
	}
}

// first does something to the first request and answers the others.
func first(todo behaviour) func(int) behaviour {
	return func(n int) behaviour {
		if n == 1 {
			return todo
		}
		return answer
	}
}

// storm lets the callers of several processes ask for one expired token at once.
func (b *bench) storm(processes, callers int) {
	b.Helper()
	release := make(chan struct{})
	e := startEndpoint(b.T, "refresh-first", func(int) behaviour {
		<-release // so that all callers come while the exchange runs
		return answer
	})
	b.Advance(b.T, overdue)
	var ready, all sync.WaitGroup
	ready.Add(processes * callers)
	for range processes {
		r, conn := b.refresher(e, nil), connection(b.Other(b.T))
		for range callers {
			all.Go(func() {
				ready.Done()
				got, err := r.AccessToken(b.Context(), conn)
				if err != nil || got.Access != "access-exchange-1" {
					b.Errorf("AccessToken() = %v, %v", got, err)
				}
			})
		}
	}
	ready.Wait()
	close(release)
	all.Wait()
	b.wantRequests(e, 1, 0)
	b.wantStored("a storm", "exchange-1")
}

// lockTests are those of prisma.RefreshLock: processes share one exchange.
func lockTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"lock: many processes, one exchange": func(b *bench) { b.storm(4, 10) },
		"lock: exclusive until it is released": func(b *bench) {
			release := b.lock(b.Storage)
			ctx, cancel := context.WithTimeout(b.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := b.lockOf(b.Other(b.T)).LockRefresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
				b.Errorf("LockRefresh() while it is held: error = %v, want the context's", err)
			}
			release()
			b.lock(b.Other(b.T))()
			b.lock(b.Storage)()
		},
		"lock: free after every refresh": func(b *bench) {
			plans := map[string]func(int) behaviour{"an exchange": nil, "a failure": first(failBefore), "a lost answer": first(failAfter)}
			for what, plan := range plans {
				e := startEndpoint(b.T, "refresh-first", plan)
				b.set(b.Storage, b.pair("first"))
				b.Advance(b.T, overdue)
				r := b.refresher(e, nil)
				_, err := r.AccessToken(b.Context(), connection(b.Storage))
				if (err == nil) != (plan == nil) {
					b.Errorf("%s: AccessToken() error = %v", what, err)
				}
				b.lock(b.Other(b.T))()
			}
		},
	}
}

func (b *bench) lockOf(s prisma.TokenStorage) prisma.RefreshLock {
	b.Helper()
	lock, ok := s.(prisma.RefreshLock)
	if !ok {
		b.Fatal("this value has no lock")
	}
	return lock
}

// lock takes the refresh lock, which must be free soon.
func (b *bench) lock(s prisma.TokenStorage) (release func()) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	b.Cleanup(cancel)
	release, err := b.lockOf(s).LockRefresh(ctx)
	b.ok("LockRefresh()", err)
	return release
}

// leasedRefresherTests are those of a lease under a refresher.
func leasedRefresherTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"lease: many processes, one exchange": func(b *bench) { b.storm(4, 10) },
		"lease: an unknown outcome is left alone until late": func(b *bench) {
			arrived := make(chan struct{})
			e := startEndpoint(b.T, "refresh-first", func(n int) behaviour {
				if n == 1 {
					close(arrived)
					return failBefore
				}
				return answer
			})
			b.Advance(b.T, ageing)
			r := b.refresher(e, nil)
			got, err := r.AccessToken(b.Context(), connection(b.Storage))
			if err != nil || got.Access != "access-first" {
				b.Errorf("AccessToken() = %v, %v; want the one that works", got, err)
			}
			<-arrived
			b.ok("Wait()", r.Wait(b.Context()))
			b.wantClaim("after an unknown outcome", false, false)
			b.Advance(b.T, life-ageing)
			if got, err := b.accessToken(e); err != nil || got.Access != "access-exchange-2" {
				b.Errorf("AccessToken() late = %v, %v", got, err)
			}
			b.wantRequests(e, 2, 0)
		},
		"lease: a process that died before it sent": func(b *bench) {
			e := startEndpoint(b.T, "refresh-first", nil)
			b.due("at first")
			b.Die(b.T)
			b.Advance(b.T, overdue)
			if got, err := b.accessToken(e); err != nil || got.Access != "access-exchange-1" {
				b.Errorf("AccessToken() = %v, %v", got, err)
			}
			b.wantStored("the retry", "exchange-1")
			b.wantRequests(e, 1, 0)
		},
		"lease: a process that died after it sent": func(b *bench) {
			e := startEndpoint(b.T, "what-it-got", nil) // the server moved on without us
			b.due("at first")
			b.Die(b.T)
			b.Advance(b.T, overdue)
			for range 2 {
				_, err := b.accessToken(e)
				b.wantKind("AccessToken()", err, fault.ReconnectRequired)
			}
			b.wantRequests(e, 1, 1)
		},
	}
}
