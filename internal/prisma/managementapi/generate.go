package managementapi

// The interface document holds Prisma's facts alone. The overlay beside it adds the Go
// names of operations, their summaries, number types and which values are secret. The
// templates in codegen replace those of the generator that make the client, so that a
// method returns the thing itself instead of a struct of every possible answer.
//
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen/models.yaml prisma-management-api.json
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen/operations.yaml prisma-management-api.json
