// Package managementapi is a typed client of Prisma's Management API: a method for each
// of its 118 operations, the types of their bodies, and the interface document that
// both are generated from.
//
//	client, err := managementapi.New(managementapi.Config{Token: serviceToken})
//	project, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{Name: new("shop")})
//	for database, err := range client.AllDatabases(ctx, managementapi.ListDatabasesParams{}) {
//		…
//	}
//
// # Whose token is sent
//
// Config.Token suits a service token; Client.WithToken gives another user's client that
// shares the connections. An Authorizer supplies tokens that are renewed: the SDK of
// package prisma is one, with a login and a token storage. An Authorization in
// Config.Header wins over both.
//
// # What a call returns
//
// A method returns what Prisma puts under "data"; a list gives a Page, and its sibling
// All… pages through it. Logs come as a stream, an iterator over their records. In the
// types a pointer is a field that may be left out, and a nullable.Nullable one that may be
// null, which Value reads. Values that open something are Secret: they print as
// "[secret]", and Reveal gives them.
//
// Every error of a call is one of two, for errors.AsType or errors.As:
//
//   - *APIError: Prisma answered, with a status other than the documented success.
//   - *FetchError: there was no usable answer. Sent says whether the call may have
//     reached Prisma all the same.
//
// An Authorizer adds its own, such as the SDK's *prisma.AuthError.
//
// # What is sent twice
//
// Reads are repeated after 429, 5xx and network failures (RetrySettings). A call that
// creates or changes something is sent once, whatever happens: Prisma has no
// idempotency key, so only the caller can tell whether a second one would do harm. PUT
// and DELETE are the exception where the first one certainly did nothing.
package managementapi
