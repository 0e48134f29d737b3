package client

// The templates in codegen replace those of the generator that make its client, so that
// a method returns the thing itself instead of a struct of every possible answer.
//
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen/models.yaml ../api/openapi.yaml
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config codegen/operations.yaml ../api/openapi.yaml
