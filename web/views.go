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
	Status   int // HTTP status, when it is none of Further
	Meaning  string
	WhatToDo string
	Further  []ProblemStatus
}

// ProblemStatus is another HTTP status that a kind of error is sent with.
type ProblemStatus struct {
	Status  int
	Meaning string // what it means then, and what to do
}

// ProblemIndexPage lists every kind of API error.
type ProblemIndexPage struct {
	Problems []ProblemPage
}

// ReferencePage is the reference of the API, made from its contract. It is whole without
// scripts; with them, calls can be tried.
type ReferencePage struct {
	Title   string
	Version string
	Server  string // where the calls go, for reading
	About   []Paragraph
	Groups  []ReferenceGroup
	Objects []ReferenceObject
}

// Paragraph is a paragraph, an item of a list, or a heading.
type Paragraph struct {
	Heading bool
	Spans   []Span
}

// Span is a piece of text.
type Span struct {
	Text         string
	Code, Strong bool
}

// ReferenceGroup is a chapter of operations.
type ReferenceGroup struct {
	ID         string // of the chapter in the page
	Name       string
	About      []Paragraph
	Operations []ReferenceOperation
}

// ReferenceOperation is one call.
type ReferenceOperation struct {
	ID         string // of its section in the page
	Method     string // in capitals
	Path       string // with {names}
	Summary    string
	About      []Paragraph
	Scope      string // what the key needs; "": any key will do
	Parameters []ReferenceField
	BodyType   string           // "": none is sent
	Body       []ReferenceField // of a JSON body
	Examples   []ReferenceExample
	Answers    []ReferenceAnswer
	Problems   []ReferenceProblem
}

// ReferenceField is a parameter of a call or a field of an object.
type ReferenceField struct {
	ID       string // of its input, when it can be tried
	Name     string
	In       string // "path", "query" or "header"; "" in an object
	Type     string
	Object   string // where the type is described; "" when Type says it all
	Required bool
	Several  bool // it stands for several segments of a path
	About    []Span
	Example  string
}

// ReferenceExample is a body.
type ReferenceExample struct {
	Name string // "": the only one
	Text string
}

// ReferenceAnswer is a success.
type ReferenceAnswer struct {
	Status   string
	About    []Span
	Object   string // what lies under data; "": no body
	ObjectID string
	List     bool // a list of it
	Headers  []string
	Examples []ReferenceExample
}

// ReferenceProblem is an error that a call can answer.
type ReferenceProblem struct {
	Kind    string
	Title   string
	Status  int
	Further []int // other statuses that the call sends it with
}

// ReferenceObject is something that answers hold.
type ReferenceObject struct {
	ID     string // of its section in the page
	Name   string
	About  []Paragraph
	Fields []ReferenceField
}

func (ConnectPage) template() string          { return "connect" }
func (MessagePage) template() string          { return "message" }
func (ConnectedPage) template() string        { return "connected" }
func (WorkspaceChangedPage) template() string { return "workspace_changed" }
func (ProblemPage) template() string          { return "problem" }
func (ProblemIndexPage) template() string     { return "problem_index" }
func (ReferencePage) template() string        { return "reference" }
