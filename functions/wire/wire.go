package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Version of the protocol that this package speaks. A node speaks this one and
// the one before it.
const Version = 2

// MaxFrame is the largest frame by default, in bytes without its length.
const MaxFrame = 1 << 20

// Overhead is the room that an event's attributes may take in a frame beside
// its data, in bytes.
const Overhead = 64 << 10

// Errors of reading and writing frames.
var (
	// ErrFrame is returned for a frame that is cut, or is not CBOR of the
	// expected shape.
	ErrFrame = errors.New("malformed frame")
	// ErrTooLong is returned for a frame over the connection's limit.
	ErrTooLong = errors.New("frame is too long")
	// ErrVersion is returned for a hello of a version that is not spoken here.
	ErrVersion = errors.New("wire version is not supported")
)

// Kind of a frame.
type Kind string

// Kinds of frames; see the package documentation.
const (
	KindHello   Kind = "hello"
	KindEvent   Kind = "event"
	KindResult  Kind = "result"
	KindFailure Kind = "failure"
	KindGet     Kind = "get"
	KindList    Kind = "list"
	KindPut     Kind = "put"
	KindDelete  Kind = "delete"
	KindPublish Kind = "publish"
	KindInvoke  Kind = "invoke"

	KindSetLine     Kind = "set_line"
	KindPulseLine   Kind = "pulse_line"
	KindReleaseLine Kind = "release_line"
	KindReadLine    Kind = "read_line"
	KindReadSensor  Kind = "read_sensor"

	KindLog   Kind = "log"
	KindOK    Kind = "ok"
	KindError Kind = "error"
)

// Frame is one message.
type Frame struct {
	_    struct{} `cbor:",toarray"`
	Kind Kind
	ID   uint64
	Body cbor.RawMessage
}

var (
	enc = must(cbor.CoreDetEncOptions().EncMode())
	dec = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: 64 << 10,
		MaxMapPairs:      1 << 10,
		TagsMd:           cbor.TagsForbidden,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Conn reads and writes frames. One goroutine may read while others write.
type Conn struct {
	r   io.Reader
	max int

	mu sync.Mutex // guards writes
	w  io.Writer
}

// NewConn returns a Conn over rw that refuses frames of more than max bytes.
// The caller closes rw.
func NewConn(rw io.ReadWriter, limit int) *Conn {
	return &Conn{r: rw, w: rw, max: limit}
}

// Read returns the next frame. io.EOF means that the other end closed between
// frames; any other error leaves the connection unusable.
func (c *Conn) Read() (Frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return Frame{}, fmt.Errorf("%w: cut in its length", ErrFrame)
		}
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(c.max) {
		return Frame{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLong, n, c.max)
	}
	buf, err := c.body(int(n))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return Frame{}, fmt.Errorf("%w: cut in its body", ErrFrame)
		}
		return Frame{}, err
	}
	return Decode(buf)
}

// trust is how much of an announced length is allocated before any of it has
// arrived.
const trust = 64 << 10

// body reads n bytes. It allocates as they arrive, so that an instance that
// announces a long frame and sends nothing costs the node no memory.
func (c *Conn) body(n int) ([]byte, error) {
	if n <= trust {
		buf := make([]byte, n)
		_, err := io.ReadFull(c.r, buf)
		return buf, err
	}
	var buf bytes.Buffer
	buf.Grow(trust)
	_, err := io.CopyN(&buf, c.r, int64(n))
	return buf.Bytes(), err
}

// Write sends a frame with body encoded. The frame goes out in one write.
func (c *Conn) Write(kind Kind, id uint64, body any) error {
	b, err := Encode(kind, id, body)
	if err != nil {
		return err
	}
	if len(b)-4 > c.max {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLong, len(b)-4, c.max)
	}
	return c.WriteEncoded(b)
}

// WriteEncoded sends a frame that Encode made, of any length.
func (c *Conn) WriteEncoded(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.Write(b)
	return err
}

// Encode returns a frame with its length in front.
func Encode(kind Kind, id uint64, body any) ([]byte, error) {
	raw, err := enc.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s frame: %w", kind, err)
	}
	b, err := enc.Marshal(Frame{Kind: kind, ID: id, Body: raw})
	if err != nil {
		return nil, fmt.Errorf("encode %s frame: %w", kind, err)
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...), nil
}

// Decode reads a frame from the bytes behind its length.
func Decode(b []byte) (Frame, error) {
	var f Frame
	if err := dec.Unmarshal(b, &f); err != nil {
		return Frame{}, fmt.Errorf("%w: %v", ErrFrame, err) //nolint:errorlint // the decoder's own error is text for people
	}
	return f, nil
}

// Into decodes the frame's body into v, a pointer to one of this package's
// body types.
func (f Frame) Into(v any) error {
	if err := dec.Unmarshal(f.Body, v); err != nil {
		return fmt.Errorf("%w: body of %s: %v", ErrFrame, f.Kind, err) //nolint:errorlint // as above
	}
	return nil
}
