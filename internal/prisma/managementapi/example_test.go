package managementapi_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// A service token and a client are all that a program needs to provision databases.
func Example() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{
		BaseURL: platform.URL, // leave it out for Prisma's own
		Token:   platform.Token,
	})
	if err != nil {
		log.Fatal(err)
	}

	project, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{
		Name:   new("shop"),
		Region: new(managementapi.RegionIDUsEast1),
	})
	if err != nil {
		log.Fatal(err)
	}
	// The connection string is shown this once: keep what Reveal returns.
	databaseURL := project.DatabaseURL()
	fmt.Println(project.Name, "can be reached:", databaseURL.Reveal() != "")
	fmt.Println("printed or logged, it is", databaseURL)

	// Output:
	// shop can be reached: true
	// printed or logged, it is [secret]
}

// A client for a gateway in front of Prisma's API, with a header on every request.
func ExampleNew() {
	ctx := context.Background()
	platform := startPrisma()
	gateway := platform.startGateway() // prints the headers it gets
	defer gateway.Close()

	client, err := managementapi.New(managementapi.Config{
		BaseURL: gateway.URL,
		Token:   "your-access-token",
		Header:  http.Header{"X-Team": {"payments"}},
		Timeout: 10 * time.Second, // of a whole call, repetitions included
	})
	if err != nil {
		log.Fatal(err)
	}
	me, err := client.GetMe(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("a", me.Credential.Type, "of", managementapi.Value(me.Workspace).Name)

	// Output:
	// Authorization: Bearer your-access-token
	// X-Team: payments
	// a service_token of Partner Inc.
}

// An Authorization header wins over the token.
func ExampleNew_authorization() {
	ctx := context.Background()
	platform := startPrisma()
	gateway := platform.startGateway() // prints the headers it gets
	defer gateway.Close()

	client, err := managementapi.New(managementapi.Config{
		BaseURL: gateway.URL,
		Token:   "your-access-token",
		Header:  http.Header{"Authorization": {"Bearer the-gateways-own"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.GetMe(ctx); err != nil {
		log.Fatal(err)
	}

	// Output:
	// Authorization: Bearer the-gateways-own
}

// One client serves many users: the derived ones share its connections.
func ExampleClient_WithToken() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL})
	if err != nil {
		log.Fatal(err)
	}
	me, err := client.WithToken(platform.Token).GetMe(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(managementapi.Value(me.Workspace).Name)

	// Output:
	// Partner Inc.
}

func ExampleClient_ListWorkspaces() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	workspaces, err := client.ListWorkspaces(ctx, managementapi.ListWorkspacesParams{})
	if err != nil {
		log.Fatal(err)
	}
	for _, workspace := range workspaces.Items {
		fmt.Println(workspace.Name)
	}

	// Output:
	// Partner Inc.
}

// AllProjects pages through the whole list; it asks for a page when the loop gets there,
// so that a break saves the rest.
func ExampleClient_AllProjects() {
	ctx := context.Background()
	platform := startPrisma("shop", "blog", "wiki", "forum")

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	for project, err := range client.AllProjects(ctx, managementapi.ListProjectsParams{Limit: 2}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(project.Name)
	}

	// Unordered output:
	// blog
	// forum
	// shop
	// wiki
}

// A page at a time, for a list whose reader decides whether to go on.
func ExampleClient_ListProjects() {
	ctx := context.Background()
	platform := startPrisma("shop", "blog", "wiki")

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	params := managementapi.ListProjectsParams{Limit: 2}
	for {
		page, err := client.ListProjects(ctx, params)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("projects on this page:", len(page.Items))
		if page.NextCursor == "" {
			break
		}
		params.Cursor = page.NextCursor
	}

	// Output:
	// projects on this page: 2
	// projects on this page: 1
}

func ExampleClient_GetProject() {
	ctx := context.Background()
	platform := startPrisma("shop")

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	project, err := client.GetProject(ctx, platform.projectID("shop"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(project.Name, "in", project.Workspace.Name)

	// Output:
	// shop in Partner Inc.
}

// A logical id is a name of one's own for what is made. It makes a creation safe to
// repeat: Prisma refuses a second project with the same one.
func ExampleClient_CreateProject() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	project, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{
		Name:           new("My New Project"),
		LogicalID:      new("customer-4711"),
		CreateDatabase: new(false), // by default the project gets one
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(project.Name, "in", project.Workspace.Name)
	fmt.Println("databases:", !project.Database.IsNull())

	// Output:
	// My New Project in Partner Inc.
	// databases: false
}

func ExampleClient_CreateDatabase() {
	ctx := context.Background()
	platform := startPrisma("shop")

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	database, err := client.CreateDatabase(ctx, managementapi.CreateDatabaseRequest{
		ProjectID: platform.projectID("shop"),
		Name:      new("my-new-db-instance"),
		Region:    new(managementapi.RegionIDOrInheritUsEast1),
		IsDefault: new(true),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(database.Name, "in", managementapi.Value(database.Region).ID)
	fmt.Println("can be reached:", database.DatabaseURL().Reveal() != "")

	// Output:
	// my-new-db-instance in us-east-1
	// can be reached: true
}

func ExampleClient_DeleteDatabase() {
	ctx := context.Background()
	platform := startPrisma("shop")

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	preview, err := client.CreateDatabase(ctx, managementapi.CreateDatabaseRequest{
		ProjectID: platform.projectID("shop"),
		Name:      new("preview"),
	})
	if err != nil {
		log.Fatal(err)
	}

	if err := client.DeleteDatabase(ctx, preview.ID); err != nil {
		log.Fatal(err)
	}
	_, err = client.GetDatabase(ctx, preview.ID)
	fmt.Println(err)

	// Output:
	// prisma: status 404: resource-not-found
}

// An APIError is Prisma's own no. The text of the error is safe to log; Message and Hint
// are Prisma's words.
func ExampleAPIError() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{BaseURL: platform.URL, Token: platform.Token})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.GetProject(ctx, "proj_unknown")

	var refusal *managementapi.APIError
	switch {
	case err == nil:
		fmt.Println("found")
	case errors.As(err, &refusal) && refusal.Status == http.StatusNotFound:
		fmt.Println("no such project:", refusal.Code)
	case errors.As(err, &refusal) && refusal.Status == http.StatusTooManyRequests:
		fmt.Println("too many requests, try again after", refusal.RetryAfter)
	default:
		log.Fatal(err)
	}

	// Output:
	// no such project: resource-not-found
}

// A FetchError is a call without a usable answer. If it was sent, what it should make
// may have been made; a logical id finds it again.
func ExampleFetchError() {
	ctx := context.Background()
	platform := startPrisma()

	client, err := managementapi.New(managementapi.Config{
		BaseURL:   platform.URL,
		Token:     platform.Token,
		Transport: &lossyTransport{}, // a network that loses the first answer
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.CreateProject(ctx, managementapi.CreateProjectRequest{
		Name:      new("shop"),
		LogicalID: new("customer-4711"),
	})
	if failure, ok := errors.AsType[*managementapi.FetchError](err); ok && failure.Sent {
		fmt.Println(failure)
		found, err := client.ListProjects(ctx, managementapi.ListProjectsParams{LogicalID: "customer-4711"})
		if err != nil {
			log.Fatal(err)
		}
		for _, project := range found.Items {
			fmt.Println("made all the same:", project.Name)
		}
	}

	// Output:
	// prisma: no usable answer: unexpected EOF
	// made all the same: shop
}
