package processtest

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Tables opens a created database with its connection string and lists its tables.
func Tables(tb testing.TB, connectionString string) []string {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), connectionString)
	if err != nil {
		tb.Fatalf("open the created database: %v", err)
	}
	defer conn.Close(tb.Context())
	rows, err := conn.Query(tb.Context(),
		`SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		tb.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// WriteNote makes the table notes, if there is none, and puts a line into it.
func WriteNote(tb testing.TB, connectionString, text string) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), connectionString)
	if err != nil {
		tb.Fatalf("open the created database: %v", err)
	}
	defer conn.Close(tb.Context())
	for _, statement := range []struct {
		sql  string
		args []any
	}{{`CREATE TABLE IF NOT EXISTS notes (text text NOT NULL)`, nil}, {`INSERT INTO notes (text) VALUES ($1)`, []any{text}}} {
		if _, err := conn.Exec(tb.Context(), statement.sql, statement.args...); err != nil {
			tb.Fatalf("write to the created database: %v", err)
		}
	}
}
