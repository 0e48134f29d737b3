package provisioning

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// DeleteDatabase deletes a database that is not its project's default.
//
// Errors: fault.DefaultDatabase, with the project's id as the extra member
// "projectId", for one that is; those of GetDatabase. After fault.PrismaUnavailable
// the database may be gone; the call may be repeated.
func (s *Service) DeleteDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string,
) error {
	database, err := s.GetDatabase(ctx, tenant, connection, id)
	if err != nil {
		return err
	}
	if database.IsDefault {
		return fault.New(fault.DefaultDatabase,
			"This is its project's default database, which can only be deleted with the project.", nil).
			WithExtra("projectId", database.ProjectID)
	}
	// From here on the client's patience does not matter: what is deleted must be told.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.deadline)
	defer cancel()
	if err := s.deleteSurely(ctx, scope{tenant, connection}, database.ID); err != nil {
		return err
	}
	return s.save(ctx, func(ctx context.Context) error {
		return s.store.DatabaseDeleted(ctx, by, tenant, connection, database.ID, database.ProjectID)
	})
}

// deleteSurely repeats a deletion whose outcome is unknown: that it is gone is
// then what was wanted.
func (s *Service) deleteSurely(ctx context.Context, at scope, id string) error {
	var before error
	for _, pause := range s.patience {
		if ended := wait(ctx, pause); ended != nil {
			return cmp.Or(before, ended)
		}
		_, err := call(ctx, s, at, func(ctx context.Context, client *prisma.Client) (struct{}, error) {
			return struct{}{}, client.DeleteDatabase(ctx, id)
		})
		answer, _ := errors.AsType[*prisma.APIError](err)
		if before != nil && answer != nil && answer.Status == http.StatusNotFound {
			return nil
		}
		if outcomeOf(err) != unknown {
			return err
		}
		before = err
	}
	return before
}
