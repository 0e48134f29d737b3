package app

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"slices"

	"github.com/connect-prisma/server/client"
)

//go:embed templates
var templates embed.FS

// view is what a page shows; its type knows the page's template.
type view interface{ template() string }

// pages are the parsed templates, each with the layout around it.
type pages struct{ byName map[string]*template.Template }

// newPages parses every template, so that a broken one stops the start and not a
// user.
func newPages() (*pages, error) {
	p := &pages{byName: map[string]*template.Template{}}
	for _, view := range []view{
		signInPage{}, homePage{}, connectionPage{}, credentialsPage{}, workspaceChangedPage{}, messagePage{},
	} {
		parsed, err := template.ParseFS(templates, "templates/layout.html", "templates/"+view.template())
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", view.template(), err)
		}
		p.byName[view.template()] = parsed
	}
	return p, nil
}

func (p *pages) render(view view) ([]byte, error) {
	var page bytes.Buffer
	if err := p.byName[view.template()].ExecuteTemplate(&page, "layout.html", view); err != nil {
		return nil, fmt.Errorf("render %s: %w", view.template(), err)
	}
	return page.Bytes(), nil
}

// signInPage asks who is there.
type signInPage struct {
	Account account // always empty: the layout asks for one
	Users   []account
	Problem string // what was wrong with the id that was typed in; "": nothing
}

// homePage lists the user's connections.
type homePage struct {
	Account      account
	Notice       string
	Connections  []connectionView // the live ones, the newest first
	Disconnected []connectionView
}

// connectionView is a connection as the pages show it.
type connectionView struct {
	ID        string
	Workspace client.Workspace
	Status    client.ConnectionStatus // as the API says it
	Words     string                  // the same for people
	Message   string                  // what is wrong; "": nothing
	Usable    bool                    // Prisma may be asked through it
	Repair    bool                    // the user can mend it by connecting anew
	Since     string                  // the day of the connection
}

// connectionPage shows what is in a connection's workspace.
type connectionPage struct {
	Account    account
	Connection connectionView
	Projects   []projectView
	Regions    []client.Region

	// The form: what was typed in before, why it was refused, and the random word
	// that names this wish. Again: the same wish is to be sent once more.
	Name, Region string
	Problem      *messagePage
	Operation    string
	Again        bool
}

// projectView is a project with its databases.
type projectView struct {
	ID, Name  string
	Databases []client.Database
}

// credentialsPage shows a connection string, once.
type credentialsPage struct {
	Account          account
	Connection       connectionView
	Database         string
	Region           string
	Created          bool   // the database is new, not only its credentials
	ConnectionString string // "": the server no longer tells it
}

// workspaceChangedPage says that a reconnect came back from another workspace.
type workspaceChangedPage struct {
	Account          account
	Expected, Chosen client.Workspace
	URL              string // a fresh one-time link
}

// messagePage says one thing, and where to go from there.
type messagePage struct {
	Account         account
	Title           string
	Paragraphs      []string
	Fields          []string // which inputs were refused, and why
	RequestID       string
	Reconnect       bool   // offers the Connect button
	Link, LinkLabel string // "": home
}

func (signInPage) template() string           { return "sign-in.html" }
func (homePage) template() string             { return "home.html" }
func (connectionPage) template() string       { return "connection.html" }
func (credentialsPage) template() string      { return "credentials.html" }
func (workspaceChangedPage) template() string { return "workspace-changed.html" }
func (messagePage) template() string          { return "message.html" }

func newHomePage(s session, connections []client.Connection) homePage {
	page := homePage{Account: s.account(), Notice: s.Notice.words()}
	slices.SortStableFunc(connections, func(a, b client.Connection) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, c := range connections {
		if c.Status == client.ConnectionStatusDisconnected {
			page.Disconnected = append(page.Disconnected, newConnectionView(c))
		} else {
			page.Connections = append(page.Connections, newConnectionView(c))
		}
	}
	return page
}

func newConnectionView(c client.Connection) connectionView {
	view := connectionView{
		ID: c.ID, Workspace: c.Workspace, Status: c.Status, Words: statusWords(c.Status),
		Usable: c.Status == client.ConnectionStatusActive || c.Status == client.ConnectionStatusSuspect,
		Repair: c.Status == client.ConnectionStatusNeedsReconnect || c.Diagnosis.Action == client.DiagnosisActionReconnect,
		Since:  c.CreatedAt.UTC().Format("2 January 2006"),
	}
	if view.Workspace.Name == "" {
		view.Workspace.Name = view.Workspace.ID
	}
	if c.Diagnosis.Code != "healthy" && c.Status != client.ConnectionStatusDisconnected {
		view.Message = c.Diagnosis.Message
	}
	return view
}

// newProjectViews sorts the databases into their projects. A database whose project
// is not listed, made a moment ago perhaps, still gets a place.
func newProjectViews(projects []client.Project, databases []client.Database) []projectView {
	views := make([]projectView, 0, len(projects))
	place := make(map[string]int, len(projects))
	for _, project := range projects {
		place[project.ID] = len(views)
		views = append(views, projectView{ID: project.ID, Name: project.Name})
	}
	for _, database := range databases {
		at, ok := place[database.ProjectID]
		if !ok {
			at = len(views)
			place[database.ProjectID] = at
			views = append(views, projectView{ID: database.ProjectID, Name: database.ProjectID})
		}
		views[at].Databases = append(views[at].Databases, database)
	}
	return views
}

func statusWords(status client.ConnectionStatus) string {
	switch status {
	case client.ConnectionStatusActive:
		return "Connected"
	case client.ConnectionStatusSuspect:
		return "Needs attention soon"
	case client.ConnectionStatusNeedsReconnect:
		return "Reconnect needed"
	case client.ConnectionStatusDisconnected:
		return "Disconnected"
	}
	return string(status)
}

func (n notice) words() string {
	switch n {
	case noticeConnected:
		return "Connected. You can now create databases in your Prisma workspace from here."
	case noticeDisconnected:
		return "Disconnected: this app can no longer act in that workspace. Its databases are still there. " +
			"Prisma still lists this app among your integrations; you can remove it in Prisma's console."
	case noticeDisconnectedRemoved:
		return "Disconnected, and removed from your integrations at Prisma. Your databases are still there."
	}
	return ""
}
