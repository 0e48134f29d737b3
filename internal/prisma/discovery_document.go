package prisma

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// maxEndpoint is the longest endpoint that is believed, in bytes.
const maxEndpoint = 2048

// readMetadata checks a metadata document and returns what it says. Every error is a
// *MetadataError.
func (o *OAuth) readMetadata(body []byte) (*endpoints, error) {
	fields, err := parseObject(body, "issuer", "authorization_endpoint", "token_endpoint",
		"response_types_supported", "code_challenge_methods_supported", "grant_types_supported",
		"token_endpoint_auth_methods_supported", "authorization_response_iss_parameter_supported")
	if err != nil {
		return nil, refusedMetadata("it is not one JSON object in which each member appears once")
	}
	found := &endpoints{Metadata: Metadata{Issuer: o.issuer}, discovered: true}
	if err := checkIssuerMember(fields["issuer"], o.issuer); err != nil {
		return nil, err
	}
	if found.authorizeURL, err = o.endpointField(fields, "authorization_endpoint"); err != nil {
		return nil, err
	}
	token, err := o.endpointField(fields, "token_endpoint")
	if err != nil {
		return nil, err
	}
	found.AuthorizationEndpoint, found.TokenEndpoint = found.authorizeURL.String(), token.String()
	if err := checkOffers(fields); err != nil {
		return nil, err
	}
	if found.basicAuth, err = wantsBasicAuth(fields["token_endpoint_auth_methods_supported"]); err != nil {
		return nil, err
	}
	const iss = "authorization_response_iss_parameter_supported"
	if raw := fields[iss]; raw != nil && json.Unmarshal(raw, &found.IssInResponse) != nil {
		return nil, refusedMetadata(iss + " is not a boolean")
	}
	return found, nil
}

func refusedMetadata(reason string) error { return &MetadataError{reason: reason} }

// checkIssuerMember wants the configured issuer, byte for byte: what URLs count as equal
// is a question that two readers answer differently.
func checkIssuerMember(raw json.RawMessage, want string) error {
	got, ok := stringField(raw)
	switch {
	case ok && got == want:
		return nil
	case ok && strings.TrimSuffix(got, "/") == strings.TrimSuffix(want, "/"):
		return refusedMetadata("its issuer and the configured one differ in the slash at the end")
	}
	return refusedMetadata("its issuer is not the configured one")
}

// endpointField reads a required endpoint and holds it to the issuer's origin: codes,
// secrets and refresh tokens go there.
func (o *OAuth) endpointField(fields map[string]json.RawMessage, name string) (*url.URL, error) {
	raw, ok := stringField(fields[name])
	if !ok || raw == "" {
		return nil, refusedMetadata(name + " is missing")
	}
	if len(raw) > maxEndpoint || !printable(raw, '!') || strings.ContainsAny(raw, `#\`) {
		return nil, refusedMetadata(name + " is not a URL without a fragment")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, refusedMetadata(name + " is not an absolute URL without credentials")
	}
	if originOf(u) != originOf(o.base) {
		return nil, refusedMetadata(name + " is not on the issuer's origin")
	}
	if u.Scheme != "https" && !o.plainHTTP && !wire.Loopback(o.base.Hostname()) {
		return nil, refusedMetadata(name + " is not https")
	}
	if _, err := url.ParseQuery(u.RawQuery); err != nil {
		return nil, refusedMetadata(name + " has a malformed query")
	}
	return u, nil
}

// originOf is scheme, host and port, in the one form that origins are compared in.
func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// checkOffers wants what every flow here is built on.
func checkOffers(fields map[string]json.RawMessage) error {
	for _, need := range []struct {
		member   string
		values   []string
		required bool // whether leaving the member out means that the server can't
	}{
		// Without S256 the server would take our challenge for a parameter that it does
		// not know, and a stolen code would be worth a grant.
		{"code_challenge_methods_supported", []string{"S256"}, true},
		{"response_types_supported", []string{"code"}, true},
		{"grant_types_supported", []string{"authorization_code", "refresh_token"}, false},
	} {
		offered, err := listField(fields, need.member)
		if err != nil {
			return err
		}
		if offered == nil && !need.required {
			continue
		}
		for _, value := range need.values {
			if !slices.Contains(offered, value) {
				return refusedMetadata(need.member + " has no " + value)
			}
		}
	}
	return nil
}

// wantsBasicAuth reports whether clients with a secret have to send it in the
// Authorization header. One way is chosen beforehand: trying the other one after a
// refusal would send a single-use token twice.
//
// In the body is what Prisma's own clients do, so it stays our way wherever the server
// lists it, and also where it lists nothing: RFC 8414 reads an omitted list as "only the
// header", but a server that says nothing has more likely left a member out. A list
// without either still serves public clients if it has "none".
func wantsBasicAuth(raw json.RawMessage) (bool, error) {
	const member = "token_endpoint_auth_methods_supported"
	methods, err := listField(map[string]json.RawMessage{member: raw}, member)
	if err != nil || methods == nil || slices.Contains(methods, "client_secret_post") {
		return false, err
	}
	basic := slices.Contains(methods, "client_secret_basic")
	if !basic && !slices.Contains(methods, "none") {
		return false, refusedMetadata(member + " has nothing that this client can do")
	}
	return basic, nil
}

// listField reads a member that is a list of strings; nil when it is null or absent.
func listField(fields map[string]json.RawMessage, name string) ([]string, error) {
	raw := fields[name]
	if raw == nil {
		return nil, nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, refusedMetadata(name + " is not a list of strings")
	}
	return list, nil
}
