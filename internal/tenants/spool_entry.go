package tenants

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
)

const (
	spoolSuffix      = ".pair"
	spoolTemp        = ".tmp"
	spoolUnreadable  = ".unreadable"
	spoolMagic       = "connect-prisma spool 1\n"
	spoolHeader      = len(spoolMagic) + sha256.Size
	maxSpoolFile     = 256 << 10 // bytes; two tokens of 16 KiB, however they are written, take less
	refreshTokenLife = 90 * 24 * time.Hour
)

// What can be wrong with an entry's file.
var (
	// errSpoolDamaged: it is not what was written.
	errSpoolDamaged = errors.New("the file is damaged or was not written to its end")
	// errSpoolForeign: it is what was written, and not by us.
	errSpoolForeign = errors.New("the file is whole, and sealed under another keyset, environment or name")
)

// spoolEntry is a fresh pair that waits for its row.
type spoolEntry struct {
	tenant     TenantID
	connection ConnectionID
	generation int64     // of the pair that was exchanged for it
	taken      time.Time // when that exchange was claimed, by the database's clock
	fresh      prisma.Tokens
}

// spoolContent is what is sealed of an entry; the rest is in its file's name.
type spoolContent struct {
	WorkspaceID string    `json:"workspaceId"`
	Access      string    `json:"access"`
	Refresh     string    `json:"refresh"`
	Taken       time.Time `json:"taken"`
	IssuedAt    time.Time `json:"issuedAt"`
	ExpiresAt   time.Time `json:"expiresAt"`
}

// name is the entry's file. The time tells two exchanges of one generation apart: a
// late retry's pair must not overwrite that of the exchange before it.
func (e spoolEntry) name() string {
	return fmt.Sprintf("%s.%s.%d.%d%s", e.tenant, e.connection, e.generation, e.taken.UnixMicro(), spoolSuffix)
}

// parseSpoolName reads what name wrote.
func parseSpoolName(name string) (e spoolEntry, ok bool) {
	parts := strings.Split(strings.TrimSuffix(name, spoolSuffix), ".")
	if len(parts) != 4 {
		return spoolEntry{}, false
	}
	micros, errTaken := strconv.ParseInt(parts[3], 10, 64)
	generation, errGeneration := strconv.ParseInt(parts[2], 10, 64)
	connection, errConnection := ParseConnectionID(parts[1])
	tenant, errTenant := ParseTenantID(parts[0])
	if errors.Join(errTaken, errGeneration, errConnection, errTenant) != nil || generation < 1 {
		return spoolEntry{}, false
	}
	e = spoolEntry{tenant: tenant, connection: connection, generation: generation, taken: time.UnixMicro(micros)}
	return e, e.name() == name // one spelling only
}

func (e spoolEntry) place() sealing.Place {
	return sealing.Place{
		Table: "spool", Column: "pair", Tenant: e.tenant.String(), ID: e.connection.String(), Generation: e.generation,
	}
}

// claim and fresh are what Save was first called with, as far as Save looks at it.
func (e spoolEntry) claim() prisma.Claim {
	return prisma.Claim{
		Due: true, Taken: e.taken,
		Current: prisma.Tokens{WorkspaceID: e.fresh.WorkspaceID, Generation: e.generation},
	}
}

// sealSpoolEntry returns an entry as it is written: a line that names the format, the
// SHA-256 of what follows, and the sealed content. The sum is no protection, the seal
// is; it tells a file that a crash cut short from one under another key, which must
// never be thrown away.
func (s *Store) sealSpoolEntry(e spoolEntry) ([]byte, error) {
	plain, err := json.Marshal(spoolContent{
		WorkspaceID: e.fresh.WorkspaceID, Access: e.fresh.Access, Refresh: e.fresh.Refresh,
		Taken: e.taken, IssuedAt: e.fresh.IssuedAt, ExpiresAt: e.fresh.ExpiresAt,
	})
	if err != nil {
		return nil, errors.New("a token pair can't be written as JSON") // the cause might quote it
	}
	sealed, err := s.keyset.Seal(plain, e.place())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(sealed)
	content := make([]byte, 0, spoolHeader+len(sealed))
	content = append(content, spoolMagic...)
	content = append(content, sum[:]...)
	content = append(content, sealed...)
	if len(content) > maxSpoolFile { // nobody could read it again
		return nil, fmt.Errorf("the pair takes %d bytes, more than %d", len(content), maxSpoolFile)
	}
	return content, nil
}

// openSpoolEntry reads what sealSpoolEntry wrote to the file of that name. The error
// is errSpoolDamaged or errSpoolForeign.
func (s *Store) openSpoolEntry(name string, content []byte) (spoolEntry, error) {
	if len(content) < spoolHeader || !bytes.HasPrefix(content, []byte(spoolMagic)) {
		return spoolEntry{}, errSpoolDamaged
	}
	sealed := content[spoolHeader:]
	if sum := sha256.Sum256(sealed); !bytes.Equal(sum[:], content[len(spoolMagic):spoolHeader]) {
		return spoolEntry{}, errSpoolDamaged
	}
	e, ok := parseSpoolName(name)
	if !ok {
		return spoolEntry{}, errSpoolForeign
	}
	plain, err := s.keyset.Open(sealed, e.place())
	if err != nil {
		return spoolEntry{}, errSpoolForeign
	}
	var c spoolContent
	if err := json.Unmarshal(plain, &c); err != nil || !c.Taken.Equal(e.taken) {
		return spoolEntry{}, errSpoolForeign
	}
	e.taken = c.Taken
	e.fresh = prisma.Tokens{
		WorkspaceID: c.WorkspaceID, Access: c.Access, Refresh: c.Refresh,
		IssuedAt: c.IssuedAt, ExpiresAt: c.ExpiresAt, Generation: e.generation + 1,
	}
	return e, nil
}
