// Package admin is the dashboard: pages for the people who run the service.
//
//	GET  /admin/sign-in       form                        anyone
//	POST /admin/sign-in       new session, 303            anyone; 10 failures in 15 minutes an address
//	POST /admin/sign-out      session forgotten, 303      anyone
//	GET  /admin               tenants, connection counts  session
//	GET  /admin/tenants/{id}  one tenant                  session
//
// Without a session a page answers 303 to the sign-in form, which leads back.
//
// A session is 256 random bits in the cookie __Host-admin, of which the database
// keeps a hash. It is made at sign-in and never adopted from the browser; it ends
// after 15 idle minutes, 12 hours, or sign-out. A POST must come from a page of
// this origin. No page shows a token, a key or a client secret: the views have no
// field for one.
package admin
