package web

import "time"

// ConnectPage is what an end user sees before going to Prisma: who asks, for
// whom, and what will happen. Its one button posts to Action.
type ConnectPage struct {
	PartnerName string // the partner app
	UserLabel   string // how the partner calls the user, so that somebody else notices
	Action      string // where the form posts to: this page's own path

	Reconnect     bool   // an existing connection is renewed
	WorkspaceName string // with Reconnect: the workspace to choose; "": its name isn't known

	ExpiresAt time.Time // when the link ends; zero: not said
	Now       time.Time // with it the page says how many minutes are left; zero: the time of day, UTC
}

// MessagePage says one thing and what to do about it: the neutral page of a link
// that can't be used, expired, denied, failed, cookies needed, and errors.
type MessagePage struct {
	Title       string // of the browser tab; "": Heading
	Heading     string
	Paragraphs  []string
	ActionLabel string // "": no action; also without ActionURL
	ActionURL   string // absolute or a path; only http and https are linked
	Status      int    // HTTP status it is sent with; shown from 400 on
	RequestID   string // what a user can tell support; "": not shown
}

// ConnectedPage ends a connect session that was completed automatically.
type ConnectedPage struct {
	PartnerName   string
	UserLabel     string
	WorkspaceName string // "": its name isn't known
	ReturnURL     string // where the partner wants the user back; "": the tab can be closed
}

// WorkspaceChangedPage tells that a reconnect came back from another workspace
// and was not stored.
type WorkspaceChangedPage struct {
	PartnerName string
	Expected    string // name, or id, of the workspace that is connected; "": not known
	Chosen      string // name, or id, of the one that was chosen; "": not known
	RestartURL  string // where to begin again; "": in the partner app
}

// ProblemPage explains one kind of API error; its problem type URI leads here.
type ProblemPage struct {
	Kind     string // the last part of the type URI
	Title    string
	Status   int // HTTP status
	Meaning  string
	WhatToDo string
}

// ProblemIndexPage lists every kind of API error.
type ProblemIndexPage struct {
	Problems []ProblemPage
}

func (ConnectPage) template() string          { return "connect" }
func (MessagePage) template() string          { return "message" }
func (ConnectedPage) template() string        { return "connected" }
func (WorkspaceChangedPage) template() string { return "workspace_changed" }
func (ProblemPage) template() string          { return "problem" }
func (ProblemIndexPage) template() string     { return "problem_index" }
