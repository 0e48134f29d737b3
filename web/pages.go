package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

//go:embed templates/*.html static/*
var files embed.FS

// View is what a page shows. Each type in this package that has the word Page in
// its name is one.
type View interface {
	// template names the page's file in templates/, without ".html".
	template() string
}

// Pages renders views and serves the static files. It is safe for concurrent use.
type Pages struct {
	templates map[string]*template.Template
	assets    map[string]asset // by the name that is asked for
}

// New parses every page and renders each once with an empty view, so that a
// missing or broken template is found at the start and not by a visitor.
func New() (*Pages, error) {
	assets, urls, err := loadAssets()
	if err != nil {
		return nil, err
	}
	layout, err := template.New("").Funcs(template.FuncMap{
		"asset":   urls.lookup,
		"instant": instant,
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"words":   func(s string) string { return strings.NewReplacer("_", " ", "-", " ").Replace(s) },
		"within":  within,
	}).ParseFS(files, "templates/layout.html", "templates/admin_header.html")
	if err != nil {
		return nil, fmt.Errorf("parse layout: %w", err)
	}
	p := &Pages{templates: make(map[string]*template.Template), assets: assets}
	for _, view := range everyView() {
		name := view.template()
		page, err := layout.Clone()
		if err != nil {
			return nil, fmt.Errorf("clone layout: %w", err)
		}
		text, err := fs.ReadFile(files, "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("read page: %w", err)
		}
		if _, err := page.Parse(string(text)); err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		p.templates[name] = page
		if _, err := p.Render(view); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// everyView returns an empty view of each type.
func everyView() []View {
	return []View{
		ConnectPage{},
		MessagePage{},
		ConnectedPage{},
		WorkspaceChangedPage{},
		ProblemPage{},
		ProblemIndexPage{},
		ReferencePage{},
		AdminSignInPage{},
		AdminTenantsPage{},
		AdminTenantPage{},
	}
}

// Render returns the page as UTF-8 HTML. It is whole or not there: a caller
// chooses status and headers after it succeeded.
func (p *Pages) Render(view View) ([]byte, error) {
	name := view.template()
	page, ok := p.templates[name]
	if !ok {
		return nil, fmt.Errorf("render page %s: it is not listed in everyView", name)
	}
	var out bytes.Buffer
	if err := page.ExecuteTemplate(&out, "layout", view); err != nil {
		return nil, fmt.Errorf("render page %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// instant writes a time for people, to the minute. Without scripts the reader's
// time zone is unknown, so it is said which one is meant.
func instant(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") }

// within writes how long is left until end, rounded down so that it never
// promises too much.
func within(now, end time.Time) string {
	minutes := int(end.Sub(now) / time.Minute)
	switch {
	case minutes < 1:
		return "less than a minute"
	case minutes == 1:
		return "1 minute"
	default:
		return strconv.Itoa(minutes) + " minutes"
	}
}
