package managementapi

import (
	"context"
	"iter"

	"github.com/oapi-codegen/nullable"
)

// Page is one page of a list, in Prisma's own order.
type Page[T any] struct {
	// Items are the page's items, never nil.
	Items []T

	// NextCursor leads to the next page; "" on the last one.
	NextCursor string
}

// fetchPage makes a call whose answer is {"data": [T…], "pagination": {"nextCursor",
// "hasMore"}}.
func fetchPage[T any](ctx context.Context, c *Client, call call) (Page[T], error) {
	answer, err := fetchWhole[struct {
		Data       *[]T `json:"data"`
		Pagination *struct {
			NextCursor nullable.Nullable[string] `json:"nextCursor"`
			HasMore    bool                      `json:"hasMore"`
		} `json:"pagination"`
	}](ctx, c, call)
	if err != nil {
		return Page[T]{}, err
	}
	if answer.Data == nil || answer.Pagination == nil {
		return Page[T]{}, &FetchError{Sent: true, cause: errNoData}
	}
	page := Page[T]{Items: *answer.Data}
	if answer.Pagination.HasMore {
		// Without a cursor the rest can't be had; to say nothing would pass a part for
		// the whole.
		if page.NextCursor = Value(answer.Pagination.NextCursor); page.NextCursor == "" {
			return Page[T]{}, &FetchError{Sent: true, cause: errNoCursor}
		}
	}
	return page, nil
}

// pages yields the items of every page from cursor on. It ends after the first error,
// which comes with a zero item. A cursor that comes back is an error: the pages would
// never end.
func pages[T any](cursor string, list func(cursor string) (Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		seen := map[string]bool{}
		for at := cursor; ; {
			seen[at] = true
			page, err := list(at)
			if err == nil && page.NextCursor != "" && seen[page.NextCursor] {
				err = &FetchError{Sent: true, cause: errSameCursor}
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			at = page.NextCursor
		}
	}
}
