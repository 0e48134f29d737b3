package httpapi

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
)

// checkQuery holds the query against the contract: only known names, each once, each of
// its form. A name that is ignored would make a filter look applied that isn't.
func (o operation) checkQuery(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if !o.anyQuery {
			if err := o.refuseQuery(c.Request().URL.RawQuery); err != nil {
				return err
			}
		}
		return next(c)
	}
}

func (o operation) refuseQuery(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fault.New(fault.InvalidRequest, "The query can't be parsed.", nil) // the cause repeats it
	}
	bad := fault.New(fault.InvalidRequest, "A query parameter can't be used.", nil)
	known := 0
	names := make([]string, 0, len(o.query))
	for _, p := range o.query {
		names = append(names, p.Name)
		given, ok := values[p.Name]
		if !ok {
			continue
		}
		known++
		if detail := refuseParameter(p.Schema.Value, given); detail != "" {
			bad = bad.WithField(p.Name, detail)
		}
	}
	if known < len(values) {
		bad.Detail = "This call takes no query parameters."
		if len(names) > 0 {
			bad.Detail = "This call takes only the query parameters " + strings.Join(names, ", ") + "."
		}
		return bad
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}

// refuseParameter says what to change about a parameter's values, "" if nothing.
func refuseParameter(s *openapi3.Schema, given []string) string {
	if len(given) > 1 || !utf8.ValidString(given[0]) || strings.ContainsRune(given[0], 0) {
		return "Give it once, as UTF-8."
	}
	text := given[0]
	switch {
	case s.Type.Is(openapi3.TypeInteger):
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != text || !withinRange(s, float64(n)) { // "+1" and "01" too
			return rangeAdvice(s)
		}
	case s.Type.Is(openapi3.TypeBoolean):
		if text != "true" && text != "false" {
			return "Use true or false."
		}
	case len(s.Enum) > 0:
		for _, allowed := range s.Enum {
			if allowed == text {
				return ""
			}
		}
		return enumAdvice(s)
	case s.Format == "date-time":
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return "Use a time such as 2026-03-01T12:00:00Z."
		}
	default:
		if n := float64(utf8.RuneCountInString(text)); n < float64(s.MinLength) || s.MaxLength != nil && n > float64(*s.MaxLength) {
			return lengthAdvice(s)
		}
	}
	return ""
}

func withinRange(s *openapi3.Schema, n float64) bool {
	return (s.Min == nil || n >= *s.Min) && (s.Max == nil || n <= *s.Max)
}

func rangeAdvice(s *openapi3.Schema) string {
	low, high := math.Inf(-1), math.Inf(1)
	if s.Min != nil {
		low = *s.Min
	}
	if s.Max != nil {
		high = *s.Max
	}
	switch {
	case math.IsInf(low, 0) && math.IsInf(high, 0):
		return "Use a whole number."
	case math.IsInf(high, 0):
		return fmt.Sprintf("Use a whole number from %.0f on.", low)
	}
	return fmt.Sprintf("Use a whole number from %.0f to %.0f.", low, high)
}

func enumAdvice(s *openapi3.Schema) string {
	var texts []string
	for _, one := range s.Enum {
		if text, ok := one.(string); ok {
			texts = append(texts, text)
		}
	}
	last := len(texts) - 1
	if last < 1 {
		return "Use " + strings.Join(texts, "") + "."
	}
	return "Use " + strings.Join(texts[:last], ", ") + " or " + texts[last] + "."
}

func lengthAdvice(s *openapi3.Schema) string {
	if s.MaxLength == nil {
		return fmt.Sprintf("Give at least %d characters.", s.MinLength)
	}
	if s.MinLength == 0 {
		return fmt.Sprintf("Give at most %d characters.", *s.MaxLength)
	}
	return fmt.Sprintf("Give %d to %d characters.", s.MinLength, *s.MaxLength)
}
