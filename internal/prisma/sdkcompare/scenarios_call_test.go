package sdkcompare_test

import (
	"net/http"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// clientScenarios are about the plain client.
func clientScenarios() []scenario {
	token := prismasimtest.ServiceToken
	// one makes a scenario of a client's options, with one call.
	one := func(name string, options func(s *stage) clientOptions) scenario {
		return scenario{name: name, play: func(s *stage) {
			s.log.alias(token, "service-token")
			s.call(s.client(options(s)), listWorkspaces())
		}}
	}
	below := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.StripPrefix("/gateway/prisma", next).ServeHTTP(w, r)
	}
	return []scenario{
		one("client with a token", func(*stage) clientOptions { return clientOptions{token: token} }),
		one("client without a token", func(*stage) clientOptions { return clientOptions{} }),
		one("client with a token and an Authorization header", func(*stage) clientOptions {
			return clientOptions{token: "of-the-option", header: map[string]string{"Authorization": "Bearer " + token}}
		}),
		one("client with an Authorization header alone", func(*stage) clientOptions {
			return clientOptions{header: map[string]string{"Authorization": "Bearer " + token}}
		}),
		one("client with an authorization header in lower case", func(*stage) clientOptions {
			return clientOptions{token: "of-the-option", header: map[string]string{"authorization": "Bearer " + token}}
		}),
		one("client with further headers", func(*stage) clientOptions {
			return clientOptions{token: token, header: map[string]string{"X-Custom-Header": "value", "X-Trace": "a, b"}}
		}),
		one("client with a base URL that has a path", func(s *stage) clientOptions {
			s.front.between(on("/gateway/", below))
			return clientOptions{token: token, baseURL: s.front.URL + "/gateway/prisma"}
		}),
		one("client with a base URL that ends in a slash", func(s *stage) clientOptions {
			s.front.between(on("/gateway/", below))
			return clientOptions{token: token, baseURL: s.front.URL + "/gateway/prisma/"}
		}),
		one("client with a token that is refused", func(*stage) clientOptions { return clientOptions{token: "of-nobody"} }),
		{
			name: "create a project by the path of the documentation",
			play: func(s *stage) {
				s.log.alias(token, "service-token")
				s.call(s.client(clientOptions{token: token}), createProjectIn(prismasimtest.PartnerWorkspace, "shop"))
			},
		},
		{
			name: "SDK with a base URL that has a path",
			play: func(s *stage) {
				s.front.between(on("/gateway/", below))
				a := s.sdk(s.storage(plain, s.tokens(fullScope)), sdkOptions{apiURL: s.front.URL + "/gateway/prisma"})
				s.expire()
				s.call(a, listWorkspaces())
			},
		},
	}
}

// callScenarios are calls that the API answers, as the documentation shows them.
func callScenarios() []scenario {
	return []scenario{
		{
			name: "a project and its databases",
			play: func(s *stage) {
				a := s.loggedIn()
				s.call(a, listWorkspaces())
				project := idOf(s, s.call(a, createProject("My New Project")))
				s.call(a, getProject(project))
				s.call(a, createDatabase(project, "main", true))
				database := idOf(s, s.call(a, createDatabase(project, "my-new-db-instance", false)))
				s.call(a, deleteDatabase(database))
				s.call(a, deleteDatabase(database))
			},
		},
		{
			name: "project that is not there",
			play: func(s *stage) { s.call(s.loggedIn(), getProject("proj_cmissing0000000000000000")) },
		},
		{
			name: "ids with characters that mean something",
			play: func(s *stage) {
				a := s.loggedIn()
				s.call(a, getProject("a/b?c#d e%2f"))
				s.call(a, getProject("ä€"))
			},
		},
		{
			name: "id that is a dot segment",
			play: func(s *stage) { s.call(s.loggedIn(), deleteDatabase("..")) },
		},
		{
			name: "value that is refused",
			play: func(s *stage) { s.call(s.loggedIn(), createProject("")) },
		},
		{
			name: "value that can't be processed",
			play: func(s *stage) {
				a := s.loggedIn()
				s.front.between(answers(422, "application/json",
					`{"error": {"code": "validation-error", "message": "The name is taken.", "hint": "Choose another name."}}`))
				s.call(a, createProject("shop"))
			},
		},
	}
}

// failureScenarios are calls that don't get the answer of the API.
func failureScenarios() []scenario {
	// meets makes a scenario of a call by an SDK with tokens and what it meets.
	meets := func(name string, op operation, h func() hook) scenario {
		return scenario{name: name, play: func(s *stage) {
			a := s.loggedIn()
			s.front.between(h())
			s.call(a, op)
		}}
	}
	down := answers(503, "application/json", `{"error": {"code": "service-unavailable", "message": "Try again later."}}`)
	slow := answers(429, "application/json", `{"error": {"code": "rate-limit-exceeded", "message": "Slow down."}}`, "Retry-After", "60")
	return []scenario{
		meets("read that fails once", listWorkspaces(), once(down)),
		meets("read that always fails", listWorkspaces(), always(down)),
		meets("read that is limited for long", listWorkspaces(), always(slow)),
		meets("creation that fails", createProject("shop"), always(down)),
		meets("creation whose answer is lost", createProject("shop"), always(resets)),
		meets("deletion that fails", deleteDatabase("db_cgone0000000000000000000"), always(down)),
		meets("read whose connection breaks once", listWorkspaces(), once(resets)),
		meets("read whose connection always breaks", listWorkspaces(), always(resets)),
		meets("read with half an answer", listWorkspaces(), always(truncates)),
		meets("creation with half an answer", createProject("shop"), always(truncates)),
		meets("answer that is not JSON", createProject("shop"), always(answers(200, "text/html", "<h1>Welcome</h1>"))),
		meets("error that is not JSON", createProject("shop"), always(answers(403, "text/html", "<h1>Forbidden</h1>"))),
		meets("answer without data", createProject("shop"), always(answers(201, "application/json", `{}`))),
		meets("redirect", listWorkspaces(), once(answers(307, "text/plain", "", "Location", "/v1/workspaces"))),
		{
			name: "call with nobody there",
			play: func(s *stage) {
				a := s.loggedIn()
				s.front.refuse()
				s.call(a, createProject("shop"))
			},
		},
		{
			name: "call with nobody logged in",
			play: func(s *stage) { s.call(fresh(s), listWorkspaces()) },
		},
		{
			name: "call with a storage that can't be read",
			play: func(s *stage) {
				s.call(s.sdk(s.storage(plain, s.tokens(fullScope), failures{get: 1})), listWorkspaces())
			},
		},
	}
}
