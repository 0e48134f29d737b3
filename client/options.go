package client

import "time"

// CallOption changes one call.
type CallOption func(*callOptions)

type callOptions struct {
	idempotencyKey string
	ifNoneMatch    string
	etag           *string
	timeout        time.Duration // 0: the client's
}

// WithIdempotencyKey names a creating call, by an order number for example: 1 to 255
// printable ASCII characters. However often the same call is sent with the same key, one
// thing is made, so that such a call is repeated by itself. Rotating credentials takes a
// key too. On a call that takes none it is refused before anything is sent.
func WithIdempotencyKey(key string) CallOption {
	return func(o *callOptions) { o.idempotencyKey = key }
}

// WithIfNoneMatch makes a read return ErrNotModified while the answer is still the one
// that etag came with.
func WithIfNoneMatch(etag string) CallOption {
	return func(o *callOptions) { o.ifNoneMatch = etag }
}

// WithETag stores the ETag of a successful answer in to; "" when it has none.
func WithETag(to *string) CallOption {
	return func(o *callOptions) { o.etag = to }
}

// WithTimeout bounds the call, in place of Options.Timeout.
func WithTimeout(timeout time.Duration) CallOption {
	return func(o *callOptions) { o.timeout = timeout }
}
