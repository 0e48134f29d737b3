package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// conditional gives the answer of a GET an ETag and answers 304 to whoever has it
// already. Such an answer may be kept by its receiver, who asks each time whether it
// still holds: what holds secrets is not answered to a GET.
func conditional(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		response := c.Response()
		held := &heldAnswer{header: response.Header(), status: http.StatusOK}
		direct := response.Writer
		response.Writer = held
		err := next(c)
		response.Writer = direct
		if err != nil || !response.Committed {
			return err
		}
		if held.status == http.StatusOK {
			tag := etag(held.body.Bytes())
			response.Header().Set("ETag", tag)
			response.Header().Set(echo.HeaderCacheControl, "private, no-cache")
			if matches(c.Request().Header.Values("If-None-Match"), tag) {
				response.Header().Del(echo.HeaderContentType)
				response.Status, response.Size = http.StatusNotModified, 0
				direct.WriteHeader(http.StatusNotModified)
				return nil
			}
		}
		direct.WriteHeader(held.status)
		_, _ = direct.Write(held.body.Bytes()) // a client that hung up needs no answer
		return nil
	}
}

// heldAnswer keeps an answer until it is known how it is sent.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *heldAnswer) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *heldAnswer) WriteHeader(status int) { h.status = status }

// Write implements http.ResponseWriter.
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }

// etag names a body by its content.
func etag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// matches reports whether the tag is in If-None-Match (RFC 9110 section 13.1.2). Our
// tags have no comma, so that a plain cut finds them.
func matches(given []string, tag string) bool {
	for one := range strings.SplitSeq(strings.Join(given, ","), ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}
