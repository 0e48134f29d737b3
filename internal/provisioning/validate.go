package provisioning

import (
	"context"
	"slices"
	"strings"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	maxName   = 255
	maxLimit  = 100
	maxCursor = 1024

	projectPrefix    = "proj_"
	databasePrefix   = "db_"
	connectionPrefix = "con_"

	// inherit is Prisma's word for the region of the project.
	inherit = "inherit"
)

// isID reports whether text has the form of Prisma's ids of that prefix: lower-case
// letters and digits, behind the prefix or without it.
func isID(prefix, text string) bool {
	text = strings.TrimPrefix(text, prefix)
	return len(text) > 0 && len(text) <= 64 && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// checkID refuses what can't be an id of that prefix as Prisma would refuse one that it
// does not know.
func checkID(prefix, id string) error {
	if !isID(prefix, id) {
		return errNoSuchResource()
	}
	return nil
}

// checkPlainID is checkID for ids whose prefix varies.
func checkPlainID(id string) error {
	if len(id) == 0 || len(id) > 80 || strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_'
	}) {
		return errNoSuchResource()
	}
	return nil
}

func errNoSuchResource() error { return fault.New(fault.NotFound, "Prisma has no such resource.", nil) }

// checked returns a page that may be sent. The cursor is Prisma's own and
// opaque to us.
func (p Page) checked() (Page, error) {
	bad := fault.New(fault.InvalidRequest, "The page can't be read.", nil)
	if len(p.Cursor) > maxCursor || strings.ContainsFunc(p.Cursor, func(r rune) bool { return r <= ' ' || r > '~' }) {
		bad = bad.WithField("cursor", "Use nextCursor of the page before.")
	}
	if p.Limit < 0 {
		bad = bad.WithField("limit", "Use a whole number from 1 to 100.")
	}
	if len(bad.Fields) > 0 {
		return Page{}, bad
	}
	return Page{Cursor: p.Cursor, Limit: min(p.Limit, maxLimit)}, nil
}

// checkKey refuses an idempotency key that can't be kept.
func checkKey(key string) error {
	if len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fault.New(fault.InvalidRequest, "The Idempotency-Key can't be used.", nil).
			WithField("Idempotency-Key", "Use 1 to 255 printable ASCII characters.")
	}
	return nil
}

func newRefusal() *fault.Error {
	return fault.New(fault.InvalidValue, "The request has values that can't be used.", nil)
}

func checkName(bad *fault.Error, name string) {
	if !tenants.IsLabel(name, maxName) {
		bad.Fields = append(bad.Fields, fault.Field{
			Pointer: "/name", Detail: "Use 1 to 255 printable characters, without spaces around them.",
		})
	}
}

// checkRegion refuses a region that Prisma does not offer; an error is the store's.
func (s *Service) checkRegion(ctx context.Context, tenant tenants.TenantID, bad *fault.Error, region string) error {
	regions, err := s.Regions(ctx, tenant)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(regions, func(r Region) bool { return r.ID == region }) {
		bad.Fields = append(bad.Fields, fault.Field{Pointer: "/region", Detail: "Use one of the regions of GET /v1/regions."})
	}
	return nil
}

// refusal returns bad if it names a field.
func refusal(bad *fault.Error) error {
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}
