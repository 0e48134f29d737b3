package provisioning

import (
	"math"
	"time"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

func projectOf(p managementapi.Project) Project {
	return Project{ID: p.ID, Name: p.Name, Region: managementapi.Value(p.DefaultRegion), CreatedAt: p.CreatedAt.UTC()}
}

func createdProjectOf(p managementapi.CreatedProject) Project {
	return Project{ID: p.ID, Name: p.Name, Region: managementapi.Value(p.DefaultRegion), CreatedAt: p.CreatedAt.UTC()}
}

func databaseOf(d managementapi.Database) Database {
	return Database{
		ID: d.ID, Name: d.Name, Region: managementapi.Value(d.Region).ID, Status: string(d.Status),
		ProjectID: d.Project.ID, IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
	}
}

func restoredOf(d managementapi.RestoredDatabase) Database {
	return Database{
		ID: d.ID, Name: d.Name, Region: managementapi.Value(d.Region).ID, Status: string(d.Status),
		ProjectID: d.Project.ID, IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
	}
}

func createdDatabaseOf(d managementapi.CreatedDatabase) Database {
	return Database{
		ID: d.ID, Name: d.Name, Region: managementapi.Value(d.Region).ID, Status: string(d.Status),
		ProjectID: d.Project.ID, IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
		Credentials: shown(d.Connections, managementapi.Value(d.DefaultConnectionID)),
	}
}

// firstDatabaseOf returns the first database of a new project; its ID is "" when the
// answer held the project alone.
func firstDatabaseOf(p managementapi.CreatedProject) Database {
	d := managementapi.Value(p.Database)
	return Database{
		ID: d.ID, Name: d.Name, Region: d.Region.ID, Status: string(d.Status),
		ProjectID: p.ID, IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
		Credentials: shown(d.Connections, managementapi.Value(d.DefaultConnectionID)),
	}
}

func credentialsOf(c managementapi.CreatedConnection) Credentials {
	return Credentials{ID: c.ID, Name: shownName(c.Name), CreatedAt: c.CreatedAt.UTC(), ConnectionString: c.DatabaseURL().Reveal()}
}

// listedCredentialsOf converts credentials as lists show them.
func listedCredentialsOf(c managementapi.Connection) Credentials {
	return Credentials{ID: c.ID, Name: shownName(c.Name), CreatedAt: c.CreatedAt.UTC()}
}

// shown returns the credentials whose connection string the answer holds, the default
// ones first; nil when it holds none.
func shown(connections []managementapi.DatabaseConnection, defaultID string) *Credentials {
	var first *Credentials
	for _, connection := range connections {
		text := connection.DatabaseURL().Reveal()
		if text == "" || first != nil && connection.ID != defaultID {
			continue
		}
		first = &Credentials{ID: connection.ID, Name: connection.Name, CreatedAt: connection.CreatedAt.UTC(), ConnectionString: text}
		if connection.ID == defaultID {
			break
		}
	}
	return first
}

func listOf[From, To any](page managementapi.Page[From], convert func(From) To) List[To] {
	list := List[To]{Items: make([]To, 0, len(page.Items)), NextCursor: page.NextCursor}
	for _, item := range page.Items {
		list.Items = append(list.Items, convert(item))
	}
	return list
}

func backupOf(b managementapi.Backup) Backup {
	backup := Backup{ID: b.ID, Type: string(b.BackupType), Status: string(b.Status)}
	if at, err := time.Parse(time.RFC3339, b.CreatedAt); err == nil { // Prisma declares no format
		backup.CreatedAt = at.UTC()
	}
	if b.Size != nil && *b.Size >= 0 && *b.Size < math.MaxInt64 {
		backup.Size = new(int64(*b.Size))
	}
	return backup
}
