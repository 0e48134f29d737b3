// Package web holds the HTML pages of the service and what they load, embedded
// in the binary.
//
//	pages, err := web.New()               // parses and tries every page: a broken one stops the start
//	body, err := pages.Render(web.ConnectPage{…})
//	mux.Handle("GET /static/", pages.Static())
//
// A page is chosen by the type of its view, so no template is named at a call
// site. Pages need no JavaScript, hold no inline style or script and load
// nothing but /static/: they work under the following, and the reference of the API,
// which can do more with a script, under that with script-src and connect-src 'self'.
//
//	default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'
//
// All escaping is html/template's. No view has a field for a token or a key.
package web
