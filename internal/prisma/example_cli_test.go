package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// cli is a command line tool that lists the user's workspaces.
type cli struct {
	prismaURL   string                 // "" for Prisma's own
	tokenFile   string                 // "" for ~/.prisma/credentials.json
	openBrowser func(url string) error // xdg-open, open or the like
}

// run is one run of the program.
func (c cli) run(ctx context.Context) (err error) {
	storage, err := prisma.NewFileStorage(prisma.FileStorageConfig{Path: c.tokenFile})
	if err != nil {
		return err
	}
	// A public client may name any port of the loopback interface.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_public",
		RedirectURI:  "http://" + listener.Addr().String() + "/callback",
		TokenStorage: storage,
		APIBaseURL:   c.prismaURL,
		AuthBaseURL:  c.prismaURL,
	})
	if err != nil {
		return err
	}
	defer func() {
		// Also after Ctrl-C: a refresh that is under way may hold the only live tokens.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, sdk.Close(ctx))
	}()

	err = c.list(ctx, sdk.Client())
	if failure, ok := errors.AsType[*prisma.AuthError](err); ok { // not logged in, or not any more
		fmt.Println(failure)
		if err := c.login(ctx, sdk, listener); err != nil {
			return err
		}
		return c.list(ctx, sdk.Client())
	}
	return err
}

// list prints the names of the workspaces.
func (c cli) list(ctx context.Context, client *managementapi.Client) error {
	for workspace, err := range client.AllWorkspaces(ctx, managementapi.ListWorkspacesParams{}) {
		if err != nil {
			return err
		}
		fmt.Println("-", workspace.Name)
	}
	return nil
}

// login sends the user to the browser and waits until that comes back.
func (c cli) login(ctx context.Context, sdk *prisma.SDK, listener net.Listener) (err error) {
	login, err := sdk.LoginURL(ctx, prisma.LoginOptions{})
	if err != nil {
		return err
	}
	finished := make(chan error, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		err := sdk.HandleCallback(ctx, r.URL.String(), login.Verifier, login.State)
		if err != nil {
			http.Error(w, "The login failed; the terminal says why.", http.StatusBadRequest)
		} else {
			fmt.Fprintln(w, "You are logged in and may close this window.")
		}
		select {
		case finished <- err:
		default: // the browser has loaded the page again
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer func() { err = errors.Join(err, server.Shutdown(ctx)) }() // once the browser has its answer
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			finished <- err
		}
	}()

	if err := c.openBrowser(login.URL); err != nil {
		fmt.Println("Please open", login.URL)
	}
	select {
	case err := <-finished:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A command line tool keeps the tokens in a file of the user's. The first run logs in
// through a browser; later ones, also of other programs, use what it stored.
func ExampleNewFileStorage() {
	platform := startPrisma()
	defer platform.Close()
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(home)

	program := cli{
		prismaURL:   platform.URL,
		tokenFile:   filepath.Join(home, ".prisma", "credentials.json"),
		openBrowser: platform.openBrowser,
	}
	for run := range 2 {
		fmt.Println("run", run+1)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		if err := program.run(ctx); err != nil {
			log.Fatal(err)
		}
		cancel()
	}

	// Output:
	// run 1
	// No tokens stored. Please log in first.
	// - Ada's first
	// run 2
	// - Ada's first
}
