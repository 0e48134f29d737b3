package prisma_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/connect-prisma/server/internal/prisma"
)

// keyring is what libraries for the keyring of an operating system offer.
type keyring interface {
	Get(name string) (string, error) // errNoSecret
	Set(name, secret string) error
	Delete(name string) error
}

// keyringStorage keeps the tokens of the user in their keyring.
type keyringStorage struct{ keyring keyring }

const secretName = "prisma-tokens"

func (s keyringStorage) Tokens(context.Context) (prisma.Tokens, error) {
	text, err := s.keyring.Get(secretName)
	if errors.Is(err, errNoSecret) {
		return prisma.Tokens{}, prisma.ErrNoTokens
	}
	if err != nil {
		return prisma.Tokens{}, err
	}
	var tokens prisma.Tokens
	err = json.Unmarshal([]byte(text), &tokens)
	return tokens, err
}

func (s keyringStorage) SetTokens(_ context.Context, tokens prisma.Tokens) error {
	text, err := json.Marshal(tokens)
	if err != nil {
		return err
	}
	return s.keyring.Set(secretName, string(text))
}

func (s keyringStorage) ClearTokens(context.Context) error {
	return s.keyring.Delete(secretName)
}

// Tokens can be kept wherever there is a place for a secret. A storage that several
// processes use at once should have a RefreshLock too, or a RefreshLease.
func ExampleTokenStorage() {
	ctx := context.Background()
	platform := startPrisma()
	defer platform.Close()

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_partner",
		ClientSecret: platform.ClientSecret,
		RedirectURI:  "http://localhost:8080/oauth/callback",
		TokenStorage: keyringStorage{new(memoryKeyring)},
		APIBaseURL:   platform.URL,
		AuthBaseURL:  platform.URL,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sdk.Close(ctx)
	login, err := sdk.LoginURL(ctx, prisma.LoginOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if err := sdk.HandleCallback(ctx, platform.consent(login.URL), login.Verifier, login.State); err != nil {
		log.Fatal(err)
	}
	me, err := sdk.Client().GetMe(ctx)
	if err != nil {
		log.Fatal(err)
	}
	user, err := me.User.Get()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("logged in as", user.Email)

	// Output:
	// logged in as ada@example.com
}
