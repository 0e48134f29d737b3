package prismasim

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

//go:embed consent.html error.html style.css
var pages embed.FS

// consent says what /authorize does: show the page, or answer by itself.
type consent struct {
	Mode string `json:"mode"`
	// WorkspaceID is the workspace that mode approve chooses; "": the first one.
	WorkspaceID string `json:"workspaceId,omitempty"`
}

// Values of consent.Mode.
const (
	consentPage    = "page"
	consentApprove = "approve"
	consentDeny    = "deny"
)

// parsePages reads the templates once, at the start.
func parsePages() (*template.Template, error) {
	t, err := template.ParseFS(pages, "*.html")
	if err != nil {
		return nil, fmt.Errorf("parse the simulator's pages: %w", err)
	}
	return t, nil
}

// consentView is what consent.html shows.
type consentView struct {
	Client  string
	Scopes  []string
	Target  string // host that the browser returns to
	Problem string // why the form came back; "" at first
	Users   []consentUser
	Hidden  []consentField
	Empty   bool // nobody has a workspace
}

type consentUser struct {
	Name, Email string
	Choices     []consentChoice
}

type consentChoice struct {
	Value, ID, Name string
	Checked         bool
}

type consentField struct {
	Name, Value string
}

// renderConsent shows who asks for what, and the workspaces to choose from.
func (s *Simulator) renderConsent(w http.ResponseWriter, r *http.Request, status int, request authRequest, problem string) {
	view := consentView{Client: request.client.Name, Problem: problem, Target: hostOf(request.redirectURI)}
	for scope := range strings.FieldsSeq(request.scope) {
		view.Scopes = append(view.Scopes, map[string]string{
			scopeAdmin:   "Manage the projects and databases of the workspace you choose",
			scopeOffline: "Keep this access until you remove it",
		}[scope])
	}
	for _, name := range []string{
		"response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method",
	} {
		if value := request.params.Get(name); value != "" {
			view.Hidden = append(view.Hidden, consentField{Name: name, Value: value})
		}
	}
	count := 0
	s.read(func(st *state) { view.Users, count = st.choices() })
	view.Empty = count == 0
	if count == 1 {
		view.Users[0].Choices[0].Checked = true
	}
	s.render(w, r, status, "consent.html", formTargets(request.redirectURI), view)
}

// renderError shows a fault that must not be sent to any client.
func (s *Simulator) renderError(w http.ResponseWriter, r *http.Request, message string) {
	s.render(w, r, http.StatusBadRequest, "error.html", "'none'", message)
}

// render writes a page whole or, if the template fails, a 500.
func (s *Simulator) render(w http.ResponseWriter, r *http.Request, status int, name, formAction string, view any) {
	var page bytes.Buffer
	if err := s.page.ExecuteTemplate(&page, name, view); err != nil {
		s.logger.ErrorContext(r.Context(), "prisma simulator: a page cannot be made", slog.Any("error", err))
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "same-origin") // no-referrer would make the form's Origin null
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy",
		"default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action "+formAction)
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // a client that left is its own affair
}

// getStyle serves GET /_assets/style.css.
func (s *Simulator) getStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, pages, "style.css")
}

// choices lists users by name with their workspaces, and counts the latter. A
// workspace of several users is told apart by the user's id behind its own.
func (st *state) choices() (users []consentUser, count int) {
	seen := map[string]bool{}
	for _, u := range st.usersInOrder() {
		view := consentUser{Name: cmp.Or(u.Name, u.Email), Email: u.Email}
		for _, id := range u.WorkspaceIDs {
			row, ok := st.workspaces.get(id)
			if !ok {
				continue
			}
			choice := consentChoice{Value: id, ID: id, Name: row.Name}
			if seen[id] {
				choice.Value += "." + u.ID
			}
			seen[id] = true
			view.Choices = append(view.Choices, choice)
			count++
		}
		if len(view.Choices) > 0 {
			users = append(users, view)
		}
	}
	return users, count
}

// choose finds the user and workspace that a choice of the form stands for.
func (st *state) choose(choice string) (userID, workspaceID string, ok bool) {
	wanted, wantedUser, _ := strings.Cut(choice, ".")
	wanted = canonicalID(prefixWorkspace, wanted)
	for _, u := range st.usersInOrder() {
		for _, id := range u.WorkspaceIDs {
			if _, exists := st.workspaces.get(id); !exists {
				continue
			}
			if (wanted == "" || wanted == id) && (wantedUser == "" || wantedUser == u.ID) {
				return u.ID, id, true
			}
		}
	}
	return "", "", false
}

func (st *state) usersInOrder() []user {
	users := make([]user, 0, len(st.users.rows))
	for _, u := range st.users.rows {
		users = append(users, u)
	}
	slices.SortFunc(users, func(a, b user) int { return cmp.Compare(a.ID, b.ID) })
	return users
}

func hostOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	return cmp.Or(u.Host, u.Scheme)
}
