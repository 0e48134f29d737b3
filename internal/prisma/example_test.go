package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// A login from its beginning to the logout.
func ExampleSDK() {
	ctx := context.Background()
	platform := startPrisma()
	defer platform.Close()

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_partner",
		ClientSecret: platform.ClientSecret, // a public client has none
		RedirectURI:  "http://localhost:8080/oauth/callback",
		TokenStorage: prisma.NewMemoryStorage(time.Now, 0),
		APIBaseURL:   platform.URL, // leave both out for Prisma's own
		AuthBaseURL:  platform.URL,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sdk.Close(ctx)

	// Keep State and Verifier where only this browser can bring them back, and send it
	// to the URL.
	login, err := sdk.LoginURL(ctx, prisma.LoginOptions{
		Scope:  "workspace:admin offline_access", // the default
		Params: url.Values{"utm_source": {"my-app"}},
	})
	if err != nil {
		log.Fatal(err)
	}

	// The user consents, and the browser comes back.
	callbackURL := platform.consent(login.URL)
	if err := sdk.HandleCallback(ctx, callbackURL, login.Verifier, login.State); err != nil {
		log.Fatal(err)
	}

	// From now on the client has a token for each call.
	workspaces, err := sdk.Client().ListWorkspaces(ctx, managementapi.ListWorkspacesParams{})
	if err != nil {
		log.Fatal(err)
	}
	for _, workspace := range workspaces.Items {
		fmt.Println(workspace.Name)
	}

	if err := sdk.Logout(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = sdk.Client().GetMe(ctx)
	fmt.Println(err)

	// Output:
	// Ada's first
	// No tokens stored. Please log in first.
}

// A user who says no, and what else can go wrong when the browser comes back.
func ExampleSDK_HandleCallback() {
	ctx := context.Background()
	platform := startPrisma()
	defer platform.Close()

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_partner",
		ClientSecret: platform.ClientSecret,
		RedirectURI:  "http://localhost:8080/oauth/callback",
		TokenStorage: prisma.NewMemoryStorage(time.Now, 0),
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
	callbackURL := platform.refuse(login.URL)

	err = sdk.HandleCallback(ctx, callbackURL, login.Verifier, login.State)
	var (
		refusal *prisma.AuthError
		outage  *prisma.FetchError
	)
	switch {
	case err == nil:
		fmt.Println("logged in")
	case errors.As(err, &refusal) && refusal.Code == "access_denied":
		fmt.Println("You have not connected a workspace.")
	case errors.As(err, &refusal):
		fmt.Println("The login failed:", refusal)
	case errors.As(err, &outage):
		fmt.Println("Prisma can't be reached at the moment:", outage)
	default:
		log.Fatal(err)
	}

	// Output:
	// You have not connected a workspace.
}

// A user whom Prisma no longer knows has to log in again; the SDK has cleared the tokens.
func ExampleAuthError() {
	ctx := context.Background()
	platform := startPrisma()
	defer platform.Close()

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_partner",
		ClientSecret: platform.ClientSecret,
		RedirectURI:  "http://localhost:8080/oauth/callback",
		TokenStorage: prisma.NewMemoryStorage(time.Now, 0),
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

	platform.removeIntegration() // at Prisma, weeks later

	_, err = sdk.Client().GetMe(ctx)
	if failure, ok := errors.AsType[*prisma.AuthError](err); ok && failure.RefreshTokenInvalid {
		fmt.Println(failure)
		login, err = sdk.LoginURL(ctx, prisma.LoginOptions{})
		if err != nil {
			log.Fatal(err)
		}
		if err := sdk.HandleCallback(ctx, platform.consent(login.URL), login.Verifier, login.State); err != nil {
			log.Fatal(err)
		}
	}
	_, err = sdk.Client().GetMe(ctx)
	fmt.Println("logged in again:", err == nil)

	// Output:
	// Prisma no longer accepts the refresh token. Please log in again.
	// logged in again: true
}
