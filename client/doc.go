// Package client calls the partner API of a Connect Prisma server: a method for each
// operation of api/openapi.yaml, generated from it together with the types, and one
// place that does the work of a call.
//
//	connect, err := client.New("https://connect.example.com", apiKey, client.Options{})
//	database, err := connect.CreateDatabase(ctx, connectionID,
//		client.CreateDatabaseRequest{Name: "shop", Region: new("eu-central-1")},
//		client.WithIdempotencyKey("order-1001"))
//	for database, err := range connect.AllDatabases(ctx, connectionID, client.ListDatabasesParams{}) {
//		…
//	}
//
// # What a call returns
//
// A method returns what lies under "data". A list gives a Page, and its sibling All…
// pages through it; Collect makes a slice of that. In the types a pointer is a field that
// may be left out or null.
//
// Every error of a call is one of three, for errors.AsType, errors.As or errors.Is:
//
//   - *Problem: the server answered with a problem (RFC 9457). Decide on its Kind.
//   - *UnreachableError: no usable answer came. Sent says whether the server may have
//     done all the same what was asked.
//   - ErrNotModified: nothing changed since the ETag that WithIfNoneMatch gave.
//
// No error has the API key in it, nor has a printed Client.
//
// # What is sent twice
//
// Reads, and creating calls and rotations that have an Idempotency-Key, are repeated after 429, 503 and
// failures of the network, and creating calls also while the same operation is under way.
// Each is sent Options.Attempts times at most and all within Options.Timeout; Retry-After
// is obeyed, and a longer one than the time allows ends the call at once. Everything else
// is sent once, whatever happens: without a key nobody can tell whether a second creating
// call would make a second thing.
//
// An answer is read up to a limit, and a redirect is never followed: the key goes to the
// server that it is meant for.
package client
