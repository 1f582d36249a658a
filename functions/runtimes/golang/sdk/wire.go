package edgefn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"
)

// The frames between an instance and its node. A frame is a 4-byte big-endian
// length and then CBOR (RFC 8949): an array of [kind, id, body]. This is the
// part of CBOR that frames are made of, in its deterministic form, with the
// standard library alone: an SDK in an author's program brings nothing along.

const (
	wireVersion  = 2
	defaultLimit = 1<<20 + 64<<10 // bytes of a frame until an event says otherwise
	maxText      = 16 << 10       // bytes of a log line or a stack
	maxDepth     = 8              // of what is nested in a frame
)

var errFrame = errors.New("the node sent a malformed frame")

func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// appendValue appends v as CBOR. v is what this package puts into frames.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(b, 0xf5)
		}
		return append(b, 0xf4)
	case byte:
		return appendHead(b, 0, uint64(v))
	case uint64:
		return appendHead(b, 0, v)
	case int64:
		if v < 0 {
			return appendHead(b, 1, uint64(-1-v))
		}
		return appendHead(b, 0, uint64(v))
	case string:
		v = strings.ToValidUTF8(v, "\uFFFD")
		return append(appendHead(b, 3, uint64(len(v))), v...)
	case []byte:
		if v == nil {
			return append(b, 0xf6)
		}
		return append(appendHead(b, 2, uint64(len(v))), v...)
	case []any:
		b = appendHead(b, 4, uint64(len(v)))
		for _, item := range v {
			b = appendValue(b, item)
		}
		return b
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		// The order of the encoded keys: shorter first, then by byte.
		sort.Slice(keys, func(i, j int) bool {
			if len(keys[i]) != len(keys[j]) {
				return len(keys[i]) < len(keys[j])
			}
			return keys[i] < keys[j]
		})
		b = appendHead(b, 5, uint64(len(v)))
		for _, k := range keys {
			b = appendValue(appendValue(b, k), v[k])
		}
		return b
	}
	panic(fmt.Sprintf("edgefn: a frame cannot hold %T", v))
}

// value reads one item and returns what is behind it.
func value(b []byte, depth int) (v any, rest []byte, err error) {
	if len(b) == 0 || depth > maxDepth {
		return nil, nil, errFrame
	}
	major, info := b[0]>>5, b[0]&31
	b = b[1:]
	if major == 7 {
		switch info {
		case 20, 21:
			return info == 21, b, nil
		case 22:
			return nil, b, nil
		}
		return nil, nil, errFrame
	}
	n := uint64(info)
	if info >= 24 {
		size := 1 << (info - 24)
		if info > 27 || len(b) < size {
			return nil, nil, errFrame
		}
		var full [8]byte
		copy(full[8-size:], b[:size])
		n, b = binary.BigEndian.Uint64(full[:]), b[size:]
	}
	if major != 0 && major != 1 && n > uint64(len(b)) { // an item takes a byte at least
		return nil, nil, errFrame
	}
	switch major {
	case 0:
		return n, b, nil
	case 1:
		if n > math.MaxInt64 {
			return nil, nil, errFrame
		}
		return -1 - int64(n), b, nil
	case 2:
		return b[:n:n], b[n:], nil
	case 3:
		return string(b[:n]), b[n:], nil
	case 4:
		items := make([]any, 0, min(n, 64))
		for ; n > 0; n-- {
			if v, b, err = value(b, depth+1); err != nil {
				return nil, nil, err
			}
			items = append(items, v)
		}
		return items, b, nil
	case 5:
		items := make(map[string]any, min(n, 64))
		for ; n > 0; n-- {
			if v, b, err = value(b, depth+1); err != nil {
				return nil, nil, err
			}
			k, ok := v.(string)
			if !ok {
				return nil, nil, errFrame
			}
			if items[k], b, err = value(b, depth+1); err != nil {
				return nil, nil, err
			}
		}
		return items, b, nil
	}
	return nil, nil, errFrame
}

// frame is one message.
type frame struct {
	kind string
	id   uint64
	body map[string]any
}

func parseFrame(b []byte) (frame, error) {
	v, rest, err := value(b, 0)
	if err != nil || len(rest) > 0 {
		return frame{}, errFrame
	}
	items, _ := v.([]any)
	if len(items) != 3 {
		return frame{}, errFrame
	}
	kind, ok1 := items[0].(string)
	id, ok2 := items[1].(uint64)
	body, ok3 := items[2].(map[string]any)
	if !ok1 || !ok2 || !ok3 {
		return frame{}, errFrame
	}
	return frame{kind, id, body}, nil
}

// conn is the connection to the node.
type conn struct {
	rw    io.ReadWriter
	limit int // bytes of a frame that is sent; set between invocations

	calling sync.Mutex // held from a call until its answer
	calls   uint64

	writing sync.Mutex // held while a frame is written
}

func (c *conn) read() (frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return frame{}, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.rw, b); err != nil {
		return frame{}, err
	}
	return parseFrame(b)
}

func (c *conn) write(kind string, id uint64, body map[string]any) error {
	b := appendValue(make([]byte, 4, 256), []any{kind, id, body})
	if n := len(b) - 4; n > c.limit {
		return fmt.Errorf("%s is too large: %d bytes with its attributes, at most %d are possible", kind, n, c.limit)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.rw.Write(b)
	return err
}

// link is the calls of one invocation. It ends before the result is sent.
type link struct {
	c    *conn
	over bool // guarded by c.calling
}

var _ node = (*link)(nil)

func (l *link) call(kind string, body map[string]any) (map[string]any, error) {
	l.c.calling.Lock()
	defer l.c.calling.Unlock()
	if l.over {
		return nil, ErrOver
	}
	for k, v := range body {
		if s, ok := notText(v); ok {
			return nil, fmt.Errorf("%s %q is not UTF-8", k, s)
		}
	}
	l.c.calls++
	id := l.c.calls
	if err := l.c.write(kind, id, body); err != nil {
		return nil, err
	}
	f, err := l.c.read()
	switch {
	case err != nil:
		return nil, fmt.Errorf("wait for the node: %w", err)
	case f.id != id || f.kind != "ok" && f.kind != "error":
		return nil, fmt.Errorf("the node answered %s %d with %s %d", kind, id, f.kind, f.id)
	case f.kind == "error":
		message, _ := f.body["message"].(string)
		return nil, fmt.Errorf("%w: %s", ErrRefused, message)
	}
	return f.body, nil
}

// notText finds a string in v that is not UTF-8.
func notText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, !utf8.ValidString(v)
	case []any:
		for _, item := range v {
			if s, ok := notText(item); ok {
				return s, true
			}
		}
	}
	return "", false
}

func (l *link) log(level, text string) error {
	return l.c.write("log", 0, map[string]any{"level": level, "text": clip(text)})
}

// end refuses further calls, once the one under way has its answer.
func (l *link) end() {
	l.c.calling.Lock()
	defer l.c.calling.Unlock()
	l.over = true
}

// clip leaves out the middle of a long text.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return fmt.Sprintf("%s\n... %d bytes left out ...\n%s", text[:maxText/4], len(text)-maxText, text[len(text)-maxText*3/4:])
}
