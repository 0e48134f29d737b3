package provisioning

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// RotateCredentials gives credentials of that database another connection string; the
// one before opens nothing any more. Rotating creates nothing, but its answer shows a
// secret once, so it is an operation: with a key an answer that was lost can be had
// again. key may be "".
//
// Errors: as CreateCredentials; fault.NotFound also when the database has no such
// credentials. After fault.PrismaUnavailable the old connection string may be dead.
func (s *Service) RotateCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, databaseID, id, key string,
) (Created[Credentials], error) {
	if err := checkCredentials(databaseID, id); err != nil {
		return Created[Credentials]{}, err
	}
	return create(ctx, s, by, creation[Credentials]{
		at: scope{tenant, connection}, kind: tenants.OperationRotateCredentials, key: key,
		asked:   []string{bare(databasePrefix, databaseID), connectionPrefix + bare(connectionPrefix, id)},
		request: request{DatabaseID: databaseID},
		make: func(ctx context.Context, r *run) (Credentials, tenants.Made, error) {
			found, err := s.getCredentials(ctx, r.at, databaseID, id)
			if err != nil {
				return Credentials{}, tenants.Made{}, r.fails(err)
			}
			// From here on the string before may be dead, whatever becomes of this process.
			if err := s.store.ForgetString(ctx, tenant, found.ID); err != nil {
				return Credentials{}, tenants.Made{}, r.fails(err)
			}
			rotated, err := r.rotate(ctx, found.ID)
			switch {
			case err == nil:
				return rotated, madeCredentials(rotated, databaseID), nil
			case r.rotated:
				return Credentials{}, tenants.Made{}, r.unclear(err)
			}
			return Credentials{}, tenants.Made{}, r.fails(err)
		},
		replay: func(c *Credentials, secret string) { c.ConnectionString = secret },
	})
}

// RestoreDatabase puts a database back to a backup, its own or another's of the workspace:
// what it holds is lost, its credentials stay. The database is "recovering" when it answers.
//
// A restore is sent once an attempt. After a lost answer the database itself tells
// whether it was begun; when it can't, because it held that backup's content before,
// the outcome stays unknown, and only the same key sends it again.
//
// Errors: as CreateProject; fault.NotFound, there is no such database or backup;
// fault.Conflict, the database is being made or restored.
func (s *Service) RestoreDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string, in Restore,
) (Created[Database], error) {
	bad := newRefusal()
	if !tenants.IsLabel(in.BackupID, maxName) {
		bad = bad.WithField("/backupId", "Use the id of a backup.")
	}
	if in.SourceID != "" && !isID(databasePrefix, in.SourceID) {
		bad = bad.WithField("/sourceDatabaseId", "Use the id of a database.")
	}
	if err := refusal(bad); err != nil {
		return Created[Database]{}, err
	}
	if err := checkID(databasePrefix, id); err != nil {
		return Created[Database]{}, err
	}
	in.SourceID = cmp.Or(in.SourceID, id)
	return create(ctx, s, by, creation[Database]{
		at: scope{tenant, connection}, kind: tenants.OperationRestoreDatabase, key: in.IdempotencyKey,
		asked:   []string{bare(databasePrefix, id), bare(databasePrefix, in.SourceID), in.BackupID},
		request: request{DatabaseID: id, Unlooked: true},
		make: func(ctx context.Context, r *run) (Database, tenants.Made, error) {
			restored, err := r.restore(ctx, id, in)
			if err != nil {
				return Database{}, tenants.Made{}, err
			}
			return restored, madeDatabase(restored, false), nil
		},
		replay: func(*Database, string) {},
	})
}

// restore begins a restore once. Its error is an *unfinished.
func (r *run) restore(ctx context.Context, id string, in Restore) (Database, error) {
	before, _ := requestOf(r.op)
	if before.Unlooked || !r.mayExist() {
		database, err := r.database(ctx, id)
		if err != nil {
			return Database{}, r.fails(err)
		}
		before.Again, before.Unlooked = restoredFrom(database, in.BackupID), false
		if err := r.note(ctx, before); err != nil {
			return Database{}, r.fails(err)
		}
	} else if database, begun, err := r.findRestore(ctx, id, in.BackupID, before.Again, r.service.patience); err != nil || begun {
		if err != nil {
			err = r.fails(err)
		}
		return database, err
	}
	restored, err := send(ctx, r, tenants.OutgoingCall{Operation: "restoreDatabase", Target: id, Uses: []string{in.SourceID}},
		func(ctx context.Context, client *prisma.Client) (Database, error) {
			answer, err := client.RestoreDatabase(ctx, id, managementapi.RestoreDatabaseRequest{
				Source: managementapi.BackupSource{Type: managementapi.BackupSourceTypeBackup, DatabaseID: in.SourceID, BackupID: in.BackupID},
			})
			return restoredOf(answer), err
		})
	switch outcomeOf(err) {
	case happened:
		return restored, nil
	case conflicts:
		return Database{}, r.fails(fault.New(fault.Conflict,
			"The database is being made or restored. Wait until its status is ready.", err))
	case refused, notSent:
		return Database{}, r.fails(err)
	case unknown:
	}
	if database, begun, lookErr := r.findRestore(ctx, id, in.BackupID, before.Again, r.service.patience); lookErr == nil && begun {
		return database, nil
	}
	return Database{}, r.unclear(err)
}

// note keeps more about the operation, before something is sent.
func (r *run) note(ctx context.Context, more request) error {
	kept, err := json.Marshal(more)
	if err != nil {
		return fmt.Errorf("encode a request: %w", err)
	}
	return r.service.store.NoteOperation(ctx, r.op, kept)
}

func (r *run) database(ctx context.Context, id string) (managementapi.Database, error) {
	return call(ctx, r.service, r.at, func(ctx context.Context, client *prisma.Client) (managementapi.Database, error) {
		return client.GetDatabase(ctx, id)
	})
}

// findRestore looks whether a database is being, or was, restored from that backup. If
// it held that content before, only its recovering tells.
func (r *run) findRestore(ctx context.Context, id, backupID string, again bool, pauses []time.Duration) (Database, bool, error) {
	return search(ctx, pauses, func(ctx context.Context) (Database, bool, error) {
		database, err := r.database(ctx, id)
		if err != nil {
			return Database{}, false, err
		}
		begun := restoredFrom(database, backupID) && (!again || database.Status == managementapi.DatabaseStatusRecovering)
		return databaseOf(database), begun, nil
	})
}

// restoredFrom reports whether a database holds, or will hold, that backup's content.
func restoredFrom(database managementapi.Database, backupID string) bool {
	from, err := managementapi.Value(database.Source).AsBackupSource()
	return err == nil && from.BackupID != "" && from.BackupID == backupID
}
