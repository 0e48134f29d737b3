package provisioning

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// regionsFor is how long an answer of Prisma's serves.
	regionsFor = 10 * time.Minute
	// documentedFor is how long the documented list serves instead, so that a new
	// service token or a Prisma that is back again is soon noticed.
	documentedFor = 30 * time.Second
	// maxRegionLists is how many tenants' lists are kept before old ones are dropped.
	maxRegionLists = 10_000
)

// documented are the regions of Prisma's published interface, for tenants without
// a service token.
func documented() []Region {
	return []Region{
		{ID: "us-east-1", Name: "US East (N. Virginia)"},
		{ID: "us-west-1", Name: "US West (N. California)"},
		{ID: "eu-west-3", Name: "Europe (Paris)"},
		{ID: "eu-central-1", Name: "Europe (Frankfurt)"},
		{ID: "ap-northeast-1", Name: "Asia Pacific (Tokyo)"},
		{ID: "ap-southeast-1", Name: "Asia Pacific (Singapore)"},
	}
}

// regionCache keeps each tenant's list for a while.
type regionCache struct {
	mu    sync.Mutex
	lists map[tenants.TenantID]regionList
}

type regionList struct {
	regions []Region
	until   time.Time
}

func newRegionCache() *regionCache { return &regionCache{lists: make(map[tenants.TenantID]regionList)} }

// get returns a list and whether it is still good; an old one is better than none.
func (c *regionCache) get(tenant tenants.TenantID, now time.Time) ([]Region, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.lists[tenant]
	return list.regions, now.Before(list.until)
}

func (c *regionCache) put(tenant tenants.TenantID, regions []Region, now, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lists) >= maxRegionLists {
		for other, list := range c.lists {
			if !now.Before(list.until) {
				delete(c.lists, other)
			}
		}
	}
	c.lists[tenant] = regionList{regions, until}
}

// Regions returns where a tenant's users can have databases: what Prisma offers
// to the tenant's service token, at most ten minutes old, or the documented six
// without one. When Prisma does not answer, the last list serves on. The slice is
// shared: don't change it.
//
// Errors: those of the store.
func (s *Service) Regions(ctx context.Context, tenant tenants.TenantID) ([]Region, error) {
	now := s.now()
	known, good := s.regions.get(tenant, now)
	if good {
		return known, nil
	}
	token, err := s.store.ServiceToken(ctx, tenant)
	if err != nil {
		return nil, err
	}
	regions, until := documented(), now.Add(documentedFor)
	if token != "" {
		offered, err := s.offered(ctx, token)
		switch {
		case err != nil:
			s.logger.WarnContext(ctx, "regions not read, the last known list serves on",
				slog.String("tenant_id", tenant.String()), slog.String("error", err.Error()))
			if known != nil {
				regions = known
			}
		case len(offered) > 0:
			regions, until = offered, now.Add(regionsFor)
		}
	}
	s.regions.put(tenant, regions, now, until)
	return regions, nil
}

// offered asks Prisma for the regions that take databases now.
func (s *Service) offered(ctx context.Context, token string) ([]Region, error) {
	all, err := s.client.WithToken(token).ListPostgresRegions(ctx)
	if err != nil {
		return nil, err
	}
	var regions []Region
	for _, region := range all {
		if region.Status != "unavailable" {
			regions = append(regions, Region{ID: region.ID, Name: region.Name})
		}
	}
	return regions, nil
}
