package main_test

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
)

// outdatedDatabase returns a database whose newest migration has not been applied,
// as far as anybody can tell.
func outdatedDatabase(tb testing.TB) *pgtest.Database {
	tb.Helper()
	db := pgtest.Open(tb)
	conn, err := pgx.Connect(tb.Context(), db.AdminURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(tb.Context())
	tag, err := conn.Exec(tb.Context(),
		`DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
	if err != nil || tag.RowsAffected() != 1 {
		tb.Fatalf("forget the newest migration: %v, %d rows", err, tag.RowsAffected())
	}
	return db
}

// zeroKeyset sets every byte of a keyset's sealing key to zero and leaves its form
// as it is.
func zeroKeyset(tb testing.TB, keyset string) string {
	tb.Helper()
	raw, err := base64.StdEncoding.DecodeString(keyset)
	if err != nil {
		tb.Fatal("secrets generate: the keyset is not base64")
	}
	var both map[string]map[string]any
	if err := json.Unmarshal(raw, &both); err != nil {
		tb.Fatal("secrets generate: the keyset is not JSON")
	}
	keys, _ := both["seal"]["key"].([]any)
	if len(keys) != 1 {
		tb.Fatalf("secrets generate: %d sealing keys, want 1", len(keys))
	}
	key, _ := keys[0].(map[string]any)
	data, _ := key["keyData"].(map[string]any)
	text, _ := data["value"].(string)
	value, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(value) < 32 {
		tb.Fatal("secrets generate: the sealing key has another form than expected")
	}
	clear(value[len(value)-32:]) // the key itself, behind its protobuf tags
	data["value"] = base64.StdEncoding.EncodeToString(value)
	raw, err = json.Marshal(both)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}
