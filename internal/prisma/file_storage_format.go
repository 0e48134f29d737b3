package prisma

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

// ErrTokenFile is what FileStorage's errors wrap when the file is not one that it
// could have written: damaged, or another program's. A new login replaces it.
var ErrTokenFile = errors.New("not a token file that can be understood; log in again to replace it")

// Bounds of a token file.
const (
	maxTokenFile  = 1 << 20 // bytes
	maxGeneration = 1 << 53 // what JSON numbers hold exactly
)

// Members of a token file. The first three are those of the TypeScript SDK's examples.
const (
	memberWorkspace  = "workspaceId"
	memberAccess     = "accessToken"
	memberRefresh    = "refreshToken"
	memberIssued     = "issuedAt"   // RFC 3339; absent: unknown
	memberExpires    = "expiresAt"  // RFC 3339; absent: unknown
	memberGeneration = "generation" // counts the pairs from 1; absent: another program wrote the file
	memberIntent     = "intent"     // RFC 3339: when the exchange was claimed that has not ended
	memberSuspect    = "suspect"    // true: an exchange before that one had an unknown outcome
	memberRetries    = "retries"    // how often its refresh token was presented late; absent: never
	memberNotBefore  = "notBefore"  // RFC 3339: the next such time is not before then; absent: at any time
	memberEnded      = "ended"      // why there are no tokens: "refused" or "unknown"; absent: logged out
)

// tokenFile is the content of a token file.
type tokenFile struct {
	record record
	others []fileMember // not ours, in their order
}

// fileMember is one member of the file's object.
type fileMember struct {
	name  string
	value json.RawMessage
}

// parseTokenFile reads the content of a token file. Every error is ErrTokenFile: the
// decoder's own text could quote a token.
func parseTokenFile(content []byte) (tokenFile, error) {
	members, err := parseMembers(content)
	if err != nil {
		return tokenFile{}, err
	}
	var file tokenFile
	tokens := &file.record.tokens
	known := map[string]any{
		memberWorkspace: &tokens.WorkspaceID, memberAccess: &tokens.Access, memberRefresh: &tokens.Refresh,
		memberIssued: &tokens.IssuedAt, memberExpires: &tokens.ExpiresAt, memberGeneration: &tokens.Generation,
		memberIntent: &file.record.intentAt, memberSuspect: &file.record.suspect, memberEnded: &file.record.ended,
		memberRetries: &file.record.retries, memberNotBefore: &file.record.notBefore,
	}
	for _, member := range members {
		target, ours := known[member.name]
		if !ours {
			file.others = append(file.others, member)
			continue
		}
		if json.Unmarshal(member.value, target) != nil {
			return tokenFile{}, ErrTokenFile
		}
	}
	sane := printable(tokens.Access, '!') && printable(tokens.Refresh, ' ') &&
		tokens.Generation >= 0 && tokens.Generation < maxGeneration &&
		file.record.retries >= 0 && file.record.retries < maxGeneration &&
		slices.Contains([]ending{endedCleared, endedRefused, endedUnknown}, file.record.ended)
	if !sane {
		return tokenFile{}, ErrTokenFile
	}
	return file, nil
}

// parseMembers reads exactly one JSON object. A doubled member is an error, since two
// programs could take different values.
func parseMembers(content []byte) ([]fileMember, error) {
	if !utf8.Valid(content) {
		return nil, ErrTokenFile
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, ErrTokenFile
	}
	var members []fileMember
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		name, ok := key.(string)
		if err != nil || !ok || seen[name] {
			return nil, ErrTokenFile
		}
		seen[name] = true
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return nil, ErrTokenFile
		}
		members = append(members, fileMember{name: name, value: value})
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, ErrTokenFile
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, ErrTokenFile
	}
	return members, nil
}

// format is the file's content: our members first, indented as people may read it.
func (f tokenFile) format() ([]byte, error) {
	tokens := f.record.tokens
	var out bytes.Buffer
	out.WriteByte('{')
	add := func(name string, value any) error {
		key, err := json.Marshal(name)
		if err != nil {
			return err
		}
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		out.Write(key)
		out.WriteByte(':')
		out.Write(text)
		return nil
	}
	var errs []error
	for _, member := range []struct {
		name    string
		value   any
		present bool
	}{
		{memberWorkspace, tokens.WorkspaceID, tokens.WorkspaceID != ""},
		{memberAccess, tokens.Access, tokens.Access != ""},
		{memberRefresh, tokens.Refresh, tokens.Refresh != ""},
		{memberIssued, formatTime(tokens.IssuedAt), !tokens.IssuedAt.IsZero()},
		{memberExpires, formatTime(tokens.ExpiresAt), !tokens.ExpiresAt.IsZero()},
		{memberGeneration, tokens.Generation, tokens.Generation != 0},
		{memberIntent, formatTime(f.record.intentAt), !f.record.intentAt.IsZero()},
		{memberSuspect, true, f.record.suspect},
		{memberRetries, f.record.retries, f.record.retries != 0},
		{memberNotBefore, formatTime(f.record.notBefore), !f.record.notBefore.IsZero()},
		{memberEnded, f.record.ended, f.record.ended != endedCleared},
	} {
		if member.present {
			errs = append(errs, add(member.name, member.value))
		}
	}
	for _, member := range f.others {
		errs = append(errs, add(member.name, member.value))
	}
	out.WriteByte('}')
	var indented bytes.Buffer
	errs = append(errs, json.Indent(&indented, out.Bytes(), "", "  "))
	indented.WriteByte('\n')
	return indented.Bytes(), errors.Join(errs...)
}

// formatTime writes a time so that parsing it gives the same instant again.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
