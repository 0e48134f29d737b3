package managementapi

import "github.com/oapi-codegen/nullable"

// Value returns what a nullable field holds, and the zero value for null and for a field
// that was left out.
func Value[T any](field nullable.Nullable[T]) T {
	value, err := field.Get()
	if err != nil {
		var none T
		return none
	}
	return value
}
