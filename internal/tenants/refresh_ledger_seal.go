package tenants

import (
	"encoding/binary"

	"github.com/connect-prisma/server/internal/sealing"
)

// A checkpoint sees the end of a chain some minutes after it was written. Until then the
// seal over it keeps whoever can write to the database from cutting rows off and setting
// the connection's row back to what it was: the count and the MAC of an earlier row can be
// read from the chain, the seal that the row had then can't. Only a copy of the row from
// that very moment has it.

const ledgerHeadPurpose = "refresh ledger head"

// sealMessage is what the seal authenticates.
func (h *ledgerHead) sealMessage() [][]byte {
	b := make([]byte, 0, 48)
	b = append(b, h.tenant.UUID[:]...)
	b = append(b, h.id.UUID[:]...)
	return [][]byte{appendNumbers(b, h.count, h.generation), h.mac}
}

// sealHead returns the seal of where the chain ends now, behind the id of its key.
func (s *Store) sealHead(h *ledgerHead) ([]byte, error) {
	sum, key, err := s.keyset.MAC(ledgerHeadPurpose, h.sealMessage()...)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, key), sum...), nil
}

// checkSeal says what is wrong with the seal of a chain's end, "" if nothing is. sealed
// tells that the last row of the chain came with one.
func (h *ledgerHead) checkSeal(keyset *sealing.Keyset, sealed bool) string {
	const id = 4
	switch {
	case h.seal == nil && sealed:
		return "the connection's row was set back: it has no seal of where its chain ends"
	case h.seal == nil:
		return "" // the version before wrote the last row
	}
	err := sealing.ErrForged
	if len(h.seal) > id {
		err = keyset.CheckMAC(h.seal[id:], binary.BigEndian.Uint32(h.seal), ledgerHeadPurpose, h.sealMessage()...)
	}
	if err != nil {
		return "the connection's row was set back, or its seal of where the chain ends was altered: " + err.Error()
	}
	return ""
}
