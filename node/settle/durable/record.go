package durable

import (
	"strconv"
	"strings"

	"github.com/edgefn/edgefn/functions/wire"
)

// Root is what every key of the node in the store begins with. After it comes
// the name of a kind of key, and mostly a function's name, which has no slash.
const Root = "/edgefn/"

// SizedKey ends a key with the size of its value, so that counting a queue reads
// no values.
func SizedKey(prefix, id string, size int) string {
	return prefix + id + "-" + strconv.Itoa(size)
}

// SplitSized is the inverse of SizedKey for a key under prefix.
func SplitSized(key, prefix string) (id string, size int64, ok bool) {
	id, n, ok := strings.Cut(strings.TrimPrefix(key, prefix), "-")
	if !ok {
		return "", 0, false
	}
	size, err := strconv.ParseInt(n, 10, 64)
	return id, size, err == nil
}

// Encode encodes a record of the node in the encoding of the wire.
func Encode(v any) ([]byte, error) {
	b, err := wire.Encode("record", 0, v)
	if err != nil {
		return nil, err
	}
	return b[4:], nil // without the frame's length
}

// Decode is the inverse of Encode; v is a pointer.
func Decode(b []byte, v any) error {
	f, err := wire.Decode(b)
	if err != nil {
		return err
	}
	return f.Into(v)
}
