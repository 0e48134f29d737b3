package client

import (
	"context"
	"errors"
	"iter"
)

// Page is one page of a list.
type Page[T any] struct {
	// Items are the page's items.
	Items []T

	// NextCursor leads to the next page; "" on the last one.
	NextCursor string
}

// Causes of an UnreachableError.
var (
	errNoData     = errors.New("the answer has no data")
	errNoCursor   = errors.New("the answer says that there is more, but not where")
	errSameCursor = errors.New("the next page's cursor is that of a page before")
)

// fetchPage makes a call whose answer is {"data": [T…], "pagination": {…}}.
func fetchPage[T any](ctx context.Context, c *Client, call call, options []CallOption) (Page[T], error) {
	answer, err := fetchWhole[struct {
		Data       *[]T       `json:"data"`
		Pagination Pagination `json:"pagination"`
	}](ctx, c, call, options)
	if err != nil {
		return Page[T]{}, err
	}
	if answer.Data == nil {
		return Page[T]{}, &UnreachableError{Sent: true, cause: errNoData}
	}
	page := Page[T]{Items: *answer.Data}
	if answer.Pagination.HasMore {
		// Without a cursor the rest can't be had; to say nothing would pass a part for
		// the whole.
		if answer.Pagination.NextCursor == nil || *answer.Pagination.NextCursor == "" {
			return Page[T]{}, &UnreachableError{Sent: true, cause: errNoCursor}
		}
		page.NextCursor = *answer.Pagination.NextCursor
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
				err = &UnreachableError{Sent: true, cause: errSameCursor}
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

// Collect returns all that one of the All… methods yields, or its error and nothing.
func Collect[T any](items iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}
