package tenants

import (
	"encoding/binary"
	"time"

	"github.com/connect-prisma/server/internal/sealing"
)

// A checkpoint sees the end of a chain some minutes after it was written. Until then the
// seal over it keeps whoever can write to the database from cutting rows off and setting
// the row with the chain's head back to what it was: the count and the MAC of an earlier
// row can be read from the chain, the seal that the head had then can't. Only a copy of
// the head from that very moment has it.

// The purposes of the seals: what the chain is of.
const (
	ledgerHeadPurpose = "refresh ledger head"
	auditHeadPurpose  = "audit head"
	adminHeadPurpose  = "admin log head"
)

// sealMessage is what the seal authenticates.
func (h *ledgerHead) sealMessage() [][]byte {
	b := make([]byte, 0, 48)
	b = append(b, h.tenant.UUID[:]...)
	b = append(b, h.id.UUID[:]...)
	return [][]byte{appendNumbers(b, h.count, h.generation), h.mac}
}

func (h *auditHead) sealMessage(tenant TenantID) [][]byte {
	return [][]byte{tenant.UUID[:], appendNumbers(nil, h.chained), h.mac}
}

// adminSealMessage also holds until when rows without a MAC are covered.
func adminSealMessage(chained int64, mac []byte, covered time.Time) [][]byte {
	return [][]byte{appendNumbers(nil, chained, covered.UnixMicro()), mac}
}

// sealEnd returns the seal of where a chain ends now, behind the id of its key.
func (s *Store) sealEnd(purpose string, message [][]byte) ([]byte, error) {
	sum, key, err := s.keyset.MAC(purpose, message...)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, key), sum...), nil
}

// sealedEnd is the end of a chain as the row with its head has it.
type sealedEnd struct {
	row     string // which row that is
	purpose string
	message [][]byte
	seal    []byte // nil: none
}

// check says what is wrong with the seal, "" if nothing is. sealed tells that the last
// row of the chain came with one.
func (e sealedEnd) check(keyset *sealing.Keyset, sealed bool) string {
	const id = 4
	switch {
	case e.seal == nil && sealed:
		return e.row + " was set back: it has no seal of where its chain ends"
	case e.seal == nil:
		return "" // the version before wrote the last row
	}
	err := sealing.ErrForged
	if len(e.seal) > id {
		err = keyset.CheckMAC(e.seal[id:], binary.BigEndian.Uint32(e.seal), e.purpose, e.message...)
	}
	if err != nil {
		return e.row + " was set back, or its seal of where the chain ends was altered: " + err.Error()
	}
	return ""
}
