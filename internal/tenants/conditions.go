package tenants

import (
	"strconv"
	"strings"
)

// conditions are what rows have to meet to be listed. Only those that narrow are in the
// query: the planner could not take an index for `$1 = ” OR target = $1`.
type conditions struct {
	sql  string
	args []any
}

// narrow adds a condition on a value, which stands in it as ?.
func (c *conditions) narrow(by bool, condition string, value any) {
	if !by {
		return
	}
	c.args = append(c.args, value)
	c.sql += " AND " + strings.ReplaceAll(condition, "?", "$"+strconv.Itoa(len(c.args)))
}
