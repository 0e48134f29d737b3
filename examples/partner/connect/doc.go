// Package connect calls the REST API of a Connect Prisma server the way a
// partner's backend would: net/http, encoding/json and nothing else. Copy it, or
// read it as a worked example of the API's rules:
//
//   - every request carries the API key as a bearer token, and the key never
//     follows a redirect to another place;
//   - every call has a deadline and reads a bounded answer;
//   - a success is {"data": …}, a list adds {"pagination": …}, and anything else
//     is an RFC 9457 problem, returned as *Error;
//   - a call that creates something carries an Idempotency-Key, so that sending
//     it again cannot make a second one.
package connect
