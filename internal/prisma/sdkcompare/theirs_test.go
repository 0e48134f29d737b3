package sdkcompare_test

import (
	"context"
	"fmt"
	"sync/atomic"
)

// theirs is the side of Prisma's published SDK.
type theirs struct {
	*node

	names *atomic.Int64 // of objects in the process
}

func (n theirs) name(kind string) string { return fmt.Sprintf("%s %d", kind, n.names.Add(1)) }

func (n theirs) storage(s *stage, kind storageKind, set *pair, broken failures) storage {
	made := &theirStorage{s: s, node: n.node, name: n.name("storage")}
	args := map[string]any{
		"name": made.name, "locking": kind == locking,
		"failures": map[string]int{"get": broken.get, "set": broken.set, "clear": broken.clear},
	}
	if set != nil {
		args["tokens"] = theirTokens{Workspace: set.workspace, Access: set.access, Refresh: set.refresh}
	}
	n.must(s, "storage", args, nil)
	return made
}

func (n theirs) sdk(s *stage, of storage, options sdkOptions) actor {
	kept, ok := of.(*theirStorage)
	if !ok {
		s.t.Fatal("a storage of the other side")
	}
	made := theirActor{s: s, node: n.node, name: n.name("sdk")}
	config := map[string]any{
		"clientId": options.id, "redirectUri": redirectURI, "apiBaseUrl": options.apiURL, "authBaseUrl": options.authURL,
	}
	if options.secret != "" {
		config["clientSecret"] = options.secret // which it ignores
	}
	n.must(s, "sdk", map[string]any{"name": made.name, "storage": kept.name, "config": config}, nil)
	return made
}

func (n theirs) client(s *stage, options clientOptions) actor {
	made := theirActor{s: s, node: n.node, name: n.name("client")}
	args := map[string]any{"baseUrl": options.baseURL}
	if options.token != "" {
		args["token"] = options.token
	}
	if options.header != nil {
		args["headers"] = options.header
	}
	n.must(s, "client", map[string]any{"name": made.name, "options": args}, nil)
	return made
}

// quick looks whether the call has returned once everything that could run has run.
func (n theirs) quick(s *stage, call *pending) bool {
	s.wait(call.trace.aborted, call.step)
	n.must(s, "settle", nil, nil)
	return n.answered(call.trace.request)
}

func (n theirs) must(s *stage, action string, args, result any) {
	s.t.Helper()
	if failed := n.ask(s.t.Context(), s.t, action, args, result); failed != nil {
		s.t.Fatalf("node: %s: %s", action, failed)
	}
}

// theirTokens are tokens as that SDK stores them.
type theirTokens struct {
	Workspace string `json:"workspaceId"`
	Access    string `json:"accessToken"`
	Refresh   string `json:"refreshToken,omitempty"`
}

type theirStorage struct {
	s    *stage
	node *node
	name string
}

func (t *theirStorage) contended() <-chan struct{} { return t.node.contends(t.name) }

func (t *theirStorage) stored() *pair {
	var tokens *theirTokens
	theirs{node: t.node}.must(t.s, "stored", map[string]string{"storage": t.name}, &tokens)
	if tokens == nil {
		return nil
	}
	return &pair{workspace: tokens.Workspace, access: tokens.Access, refresh: tokens.Refresh}
}

// theirActor is an SDK or a client in the process.
type theirActor struct {
	s    *stage
	node *node
	name string
}

func (a theirActor) loginURL(ctx context.Context, scope string, params map[string]string) (login, *failure) {
	options := map[string]any{"scope": scope}
	if params != nil {
		options["additionalParams"] = params
	}
	var begun login
	failed := a.ask(ctx, "login", map[string]any{"options": options}, &begun)
	return begun, failed
}

func (a theirActor) handleCallback(ctx context.Context, callbackURL, verifier string, state *string) *failure {
	options := map[string]any{"callbackUrl": callbackURL, "verifier": verifier, "expectedState": state}
	return a.ask(ctx, "callback", map[string]any{"options": options}, nil)
}

func (a theirActor) call(ctx context.Context, op operation) (any, *failure) {
	init := map[string]any{}
	if op.params != nil {
		init["params"] = map[string]any{"path": op.params}
	}
	if op.body != nil {
		init["body"] = op.body
	}
	var answer struct {
		Data    any `json:"data"`
		Refused *struct {
			Status     int    `json:"status"`
			Body       any    `json:"body"`
			RetryAfter string `json:"retryAfter"`
		} `json:"refused"`
	}
	args := map[string]any{"method": op.method, "path": op.path, "init": init}
	if failed := a.ask(ctx, "call", args, &answer); failed != nil || answer.Refused == nil {
		return answer.Data, failed
	}
	f := &failure{Kind: "APIError", status: answer.Refused.Status, retryAfter: answer.Refused.RetryAfter}
	if body, ok := answer.Refused.Body.(map[string]any); ok {
		detail, _ := body["error"].(map[string]any)
		f.code, _ = detail["code"].(string)
		f.Message, _ = detail["message"].(string)
		f.hint, _ = detail["hint"].(string)
	}
	return nil, f
}

func (a theirActor) logout(ctx context.Context) *failure { return a.ask(ctx, "logout", nil, nil) }

// finish has nothing to do: nothing goes on behind this SDK's callers' backs that
// scenarios don't wait for.
func (theirActor) finish() {}

func (a theirActor) ask(ctx context.Context, action string, args map[string]any, result any) *failure {
	if args == nil {
		args = map[string]any{}
	}
	args["of"] = a.name
	return a.node.ask(ctx, a.s.t, action, args, result)
}
