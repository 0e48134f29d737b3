package passthrough

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// lookFor is how long Prisma may take to say what a deletion takes along. What it does
	// not say in time is not told, and the deletion is sent all the same.
	lookFor = 10 * time.Second
	// tellWithin bounds the telling of a deletion. What fails is told by a look later.
	tellWithin = 10 * time.Second
	// maxPages bounds the list of a project's databases, in pages of pageSize.
	maxPages = 100
	pageSize = 100
)

// deletes returns what the operation deletes, if it is something whose deletion is told by
// an event: a project, a database or credentials.
func (o *operation) deletes(id string) (gone tenants.ResourceChange, told bool) {
	switch o.String() {
	case "DELETE /v1/projects/{id}":
		gone.ProjectID, told = withPrefix("proj_", id)
	case "DELETE /v1/databases/{databaseId}":
		gone.DatabaseID, told = withPrefix("db_", id)
	case "DELETE /v1/connections/{id}":
		gone.CredentialsID, told = withPrefix("con_", id)
	}
	return gone, told
}

// rotates reports whether the operation gives credentials another connection string.
func (o *operation) rotates() bool { return o.String() == "POST /v1/connections/{id}/rotate" }

// withPrefix is one of Prisma's ids of that kind with its prefix, which may be left out;
// false: it is none.
func withPrefix(prefix, id string) (string, bool) {
	plain := strings.TrimPrefix(id, prefix)
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return prefix + plain, plain != "" && len(plain) <= 64 && !strings.ContainsFunc(plain, odd)
}

// deletion is what is to be told when the exchange has deleted something.
type deletion struct {
	gone  tenants.ResourceChange
	begun *tenants.Deletion // nil: nothing is noted
}

// deletesBranch reports whether the operation deletes a branch, which no event tells of,
// with the databases of it.
func (o *operation) deletesBranch() bool { return o.String() == "DELETE /v1/branches/{branchId}" }

// lookAtDeletion finds out what the exchange is about to delete. Its only error is Prisma's
// 401, after which the attempt begins anew.
func (x *exchange) lookAtDeletion(ctx context.Context, client *prisma.Client) error {
	gone, told := x.op.deletes(x.target.id)
	if !told && !x.op.deletesBranch() {
		return nil
	}
	gone.Tenant, gone.Connection = x.in.Tenant, x.in.Connection
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	var err error
	if told {
		err = complete(ctx, client, &gone)
	} else {
		x.emptied, err = databasesOf(ctx, client, x.target.id)
	}
	if answer, ok := errors.AsType[*prisma.APIError](err); ok && answer.Status == http.StatusUnauthorized {
		return err
	}
	if told {
		x.deletion = &deletion{gone: gone}
	}
	return nil
}

// databasesOf lists the databases of a branch, as far as Prisma says.
func databasesOf(ctx context.Context, client *prisma.Client, branch string) ([]string, error) {
	var ids []string
	cursor := ""
	for range maxPages {
		page, err := client.ListDatabases(ctx, managementapi.ListDatabasesParams{Cursor: cursor, Limit: pageSize, BranchID: branch})
		if err != nil {
			return ids, err
		}
		for _, database := range page.Items {
			// One of another branch stays, should Prisma ever take no notice of the filter.
			if tenants.PlainID(managementapi.Value(database.BranchID)) == tenants.PlainID(branch) {
				ids = append(ids, database.ID)
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	return ids, nil
}

// complete adds what else is to be told of a deletion: where the thing is, and what is in it.
func complete(ctx context.Context, client *prisma.Client, gone *tenants.ResourceChange) error {
	switch {
	case gone.CredentialsID != "":
		found, err := client.GetConnection(ctx, gone.CredentialsID)
		gone.DatabaseID = found.Database.ID
		return err
	case gone.DatabaseID != "":
		found, err := client.GetDatabase(ctx, gone.DatabaseID)
		gone.ProjectID = found.Project.ID
		return err
	}
	cursor := ""
	for range maxPages {
		page, err := client.ListProjectDatabases(ctx, gone.ProjectID,
			managementapi.ListProjectDatabasesParams{Cursor: cursor, Limit: pageSize})
		if err != nil {
			return err
		}
		for _, database := range page.Items {
			gone.DatabaseIDs = append(gone.DatabaseIDs, database.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	return nil
}

// beforeSending stores what there will be to tell of a deletion, so that a look can tell it
// if this process dies, and erases what is kept of a connection string that is about to
// change: whatever becomes of the call, nobody is given one that may be dead. An error
// means that nothing may be sent.
func (x *exchange) beforeSending(ctx context.Context) error {
	if x.op.rotates() {
		return x.store.ForgetString(ctx, x.in.Tenant, x.target.id)
	}
	if len(x.emptied) > 0 {
		return x.store.ForgetStringsOf(ctx, x.in.Tenant, x.emptied)
	}
	if x.deletion == nil {
		return nil
	}
	begun, err := x.store.BeginDeletion(ctx, x.deletion.gone)
	if err != nil {
		return err
	}
	x.deletion.begun = &begun
	return nil
}

// tellDeletion tells what was deleted, or forgets a deletion that was not done. One of
// unknown outcome stays noted: looks find out whether the thing is gone.
func (x *exchange) tellDeletion(result tenants.CallResult) {
	if x.deletion == nil || x.deletion.begun == nil || result.Outcome == tenants.CallUnknown {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), tellWithin)
	defer cancel()
	var err error
	if result.Outcome != tenants.CallDone {
		err = x.store.CancelDeletion(ctx, *x.deletion.begun)
	}
	if err == nil && (result.Outcome == tenants.CallDone || result.Status == http.StatusNotFound) {
		_, err = x.store.FinishDeletion(ctx, x.in.By, x.deletion.gone) // a 404: by a call of ours that nobody told of yet
	}
	if err != nil {
		x.logger.WarnContext(ctx, "a deletion is not told yet, a look will tell it",
			slog.String("operation", x.op.String()), slog.String("connection", x.in.Connection.String()),
			slog.String("error", err.Error()))
	}
}
