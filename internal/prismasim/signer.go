package prismasim

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// signer makes the access tokens: JWTs signed with RS256.
type signer struct {
	key    *rsa.PrivateKey
	keyID  string
	header string // the JOSE header, encoded: it never changes
}

// accessClaims are the claims of an access token. Times are Unix seconds.
type accessClaims struct {
	Issuer      string `json:"iss"`
	Subject     string `json:"sub"` // the user's id
	Audience    string `json:"aud"`
	IssuedAt    int64  `json:"iat"`
	ExpiresAt   int64  `json:"exp"`
	ID          string `json:"jti"`
	WorkspaceID string `json:"workspace_id"` //nolint:tagliatelle // the claim's name at Prisma
	ClientID    string `json:"client_id"`    //nolint:tagliatelle // RFC 9068
	Scope       string `json:"scope"`
}

// openSigner returns the signer of the stored key. If there is none, the given one is
// stored, or one that it makes.
func (s *Simulator) openSigner(ctx context.Context, given *rsa.PrivateKey) (*signer, error) {
	var stored signingKey
	var ok bool
	s.read(func(st *state) { stored, ok = st.keys.get(only) })
	if ok {
		parsed, err := x509.ParsePKCS8PrivateKey(stored.PKCS8)
		if err != nil {
			return nil, fmt.Errorf("read the stored signing key: %w", err)
		}
		key, isRSA := parsed.(*rsa.PrivateKey)
		if !isRSA {
			return nil, errors.New("the stored signing key is not RSA")
		}
		return newSigner(key)
	}
	key := given
	if key == nil {
		made, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, fmt.Errorf("make a signing key: %w", err)
		}
		key = made
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	if err := s.write(ctx, func(st *state) error {
		st.keys.set(only, signingKey{PKCS8: der})
		return nil
	}); err != nil {
		return nil, err
	}
	return newSigner(key)
}

func newSigner(key *rsa.PrivateKey) (*signer, error) {
	thumb := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	keyID := base64.RawURLEncoding.EncodeToString(thumb[:12])
	header, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "at+jwt", "kid": keyID})
	if err != nil {
		return nil, fmt.Errorf("encode the token header: %w", err)
	}
	return &signer{key: key, keyID: keyID, header: base64.RawURLEncoding.EncodeToString(header)}, nil
}

// sign returns the compact form of a token with these claims.
func (k *signer) sign(claims accessClaims) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode the claims: %w", err)
	}
	signed := k.header + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign the access token: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// keySet returns the public key as a JWK set (RFC 7517).
func (k *signer) keySet() map[string]any {
	exponent := binary.BigEndian.AppendUint32(nil, uint32(k.key.E)) //nolint:gosec // G115: the exponent of a generated key is 65537
	return map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": k.keyID,
		"n": base64.RawURLEncoding.EncodeToString(k.key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(exponent[1:]),
	}}}
}

// accessLife and refreshLife are how long tokens live, by the simulator's clock.
const (
	accessLife  = time.Hour
	refreshLife = 90 * 24 * time.Hour
)

// newAccessToken signs an access token for g, with the scope given, at the time
// now.
func (s *Simulator) newAccessToken(g grant, scope string, now time.Time) (string, error) {
	return s.signer.sign(accessClaims{
		Issuer: s.url, Subject: g.UserID, Audience: s.url, IssuedAt: now.Unix(), ExpiresAt: now.Add(accessLife).Unix(),
		ID: newID("at_"), WorkspaceID: g.WorkspaceID, ClientID: g.ClientID, Scope: scope,
	})
}
