package prismasim

import (
	"cmp"
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxPage is the default and the greatest number of rows on a page.
const maxPage = 100

// listBody is a page in Prisma's form.
type listBody[V any] struct {
	Data       []V            `json:"data"`
	Pagination paginationView `json:"pagination"`
}

// paginationView tells how to go on: NextCursor is null on the last page.
type paginationView struct {
	NextCursor *string `json:"nextCursor"`
	HasMore    bool    `json:"hasMore"`
}

// dataBody is a single thing in Prisma's form.
type dataBody struct {
	Data any `json:"data"`
}

// window is the part of a list that a request asks for.
type window struct {
	after uint64 // number of the last row seen; 0: from the start
	limit int
}

// window reads cursor and limit; a limit above 100 counts as 100.
func (c *call) window() (window, error) {
	query := c.URL.Query()
	limit, err := c.limit(maxPage)
	if err != nil {
		return window{}, err
	}
	view := window{limit: limit}
	if cursor := query.Get("cursor"); cursor != "" {
		text, err := base64.RawURLEncoding.DecodeString(cursor)
		number, found := strings.CutPrefix(string(text), "after:")
		if err != nil || !found {
			return window{}, badRequest("The cursor is not one that a list gave.")
		}
		if view.after, err = strconv.ParseUint(number, 10, 64); err != nil {
			return window{}, badRequest("The cursor is not one that a list gave.")
		}
	}
	return view, nil
}

// limit reads the parameter limit: a whole number from 1, cut at 100.
func (c *call) limit(fallback int) (int, error) {
	text := c.URL.Query().Get("limit")
	if text == "" {
		return fallback, nil
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || number < 1 || number != math.Trunc(number) {
		return 0, c.invalid("limit must be a whole number from 1.")
	}
	return int(min(number, maxPage)), nil
}

// cursorOf names the place in a list behind the row with this number.
func cursorOf(seq uint64) string {
	return base64.RawURLEncoding.EncodeToString([]byte("after:" + strconv.FormatUint(seq, 10)))
}

// page cuts the window out of rows, which are in the order of their numbers,
// and renders it. A newest-first list gives its rows in falling order.
func page[T, V any](rows []T, seq func(T) uint64, at window, newestFirst bool, render func(T) V) listBody[V] {
	start := 0
	if at.after > 0 {
		start, _ = slices.BinarySearchFunc(rows, at.after, func(row T, after uint64) int {
			if newestFirst {
				return cmp.Compare(after-1, seq(row)) // the first row below after
			}
			return cmp.Compare(seq(row), after+1) // the first row above after
		})
	}
	rest := rows[start:]
	shown := rest[:min(at.limit, len(rest))]
	body := listBody[V]{Data: make([]V, 0, len(shown))}
	for _, row := range shown {
		body.Data = append(body.Data, render(row))
	}
	if len(rest) > len(shown) {
		next := cursorOf(seq(shown[len(shown)-1]))
		body.Pagination = paginationView{NextCursor: &next, HasMore: true}
	}
	return body
}
