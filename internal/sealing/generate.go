package sealing

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

func generate(template func() *tinkpb.KeyTemplate) (json.RawMessage, error) {
	handle, err := keyset.NewHandle(template())
	if err != nil {
		return nil, fmt.Errorf("generate keyset: %w", err)
	}
	return write(handle)
}

func write(handle *keyset.Handle) (json.RawMessage, error) {
	var text bytes.Buffer
	// In clear text: the setting that carries it is the secret, and a KMS may
	// wrap that as a whole.
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&text)); err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	return bytes.TrimSpace(text.Bytes()), nil
}
