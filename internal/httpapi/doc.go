// Package httpapi is the service's face: the partner REST API v1, the pages that
// a user's browser meets on the way to Prisma and back, and the one place that
// turns errors into answers.
//
// Handlers parse a request once into a typed value, make one call, and render.
// They return errors as they are; handleError logs and sends them.
package httpapi
