package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// class is a kind of request. Each has slots of its own, so that one that is
// full never refuses another.
type class int

const (
	free        class = iota // answered from memory at once: never refused
	reads                    // what is short and changes nothing
	changes                  // what is short and changes something
	invocations              // what waits for functions
	versions                 // what starts or ends versions without bringing one
	uploads                  // what brings an image
	streams                  // logs, followed or not
	copies                   // what reads or writes all of the node, or of a state
)

// Times and rates that callers are held to.
const (
	// stallTime is how long a caller may neither send a byte of what it has
	// begun to send, nor take a byte of its answer.
	stallTime = 30 * time.Second
	// stallUpload is that of images: a bad link takes half a minute for what ssh
	// puts into one packet.
	stallUpload = time.Minute
	// minRate is what short bodies and answers have to move with, in bytes per
	// second. A whole one of n bytes has
	//
	//	stallTime + n / minRate
	minRate = 4 << 10
)

// bound is what holds for the requests of one class.
type bound struct {
	name  string        // in the plural, for people
	slots int           // requests served at once; more are answered with ErrOverloaded
	stall time.Duration // without a byte
	rate  int64         // least bytes per second of a body or an answer; 0: any, for one that waits for work between its parts
	hint  string        // what to do when it is full
}

// bounds is what holds for each class. Free requests have no slots.
var bounds = map[class]bound{
	free:        {name: "requests", stall: stallTime, rate: minRate},
	reads:       {name: "short reads", slots: 64, stall: stallTime, rate: minRate, hint: "try again in a moment"},
	changes:     {name: "short changes", slots: 64, stall: stallTime, rate: minRate, hint: "try again in a moment"},
	invocations: {name: "invocations and retries of dead letters", slots: 256, stall: stallTime, rate: minRate, hint: "try again when some have ended, or publish the events to a broker that the function listens to: there they wait"},
	versions:    {name: "rollbacks and removals", slots: 16, stall: stallTime, hint: "try again when one has ended"},
	uploads:     {name: "deploys", slots: 8, stall: stallUpload, hint: "try again when one has ended"},
	streams:     {name: "readers of logs", slots: 256, stall: stallTime, hint: "end some of those that follow a log (edgefn logs -f), then try again"},
	copies:      {name: "backups, restores, exports and imports", slots: 2, stall: stallUpload, hint: "try again when one has ended"},
}

// full is the error of a request whose class has no slot.
func (b bound) full() error {
	return &Error{
		Err:     ErrOverloaded,
		Message: fmt.Sprintf("the node serves %d %s already, the most at once", b.slots, b.name),
		Hint:    b.hint,
	}
}

// pace says by when a caller has to have moved more bytes.
type pace struct {
	stall time.Duration
	rate  int64
	began time.Time
	moved int64 // bytes
}

func (b bound) pace(now time.Time) pace { return pace{stall: b.stall, rate: b.rate, began: now} }

// deadline of the next byte.
func (p *pace) deadline(now time.Time) time.Time {
	next := now.Add(p.stall)
	if p.rate > 0 {
		whole := p.began.Add(p.stall + time.Duration(p.moved)*time.Second/time.Duration(p.rate))
		if whole.Before(next) {
			return whole
		}
	}
	return next
}

// body is the body of a request, which its caller has to send in time. Read is
// called by one goroutine at a time.
type body struct {
	r     io.ReadCloser
	rc    *http.ResponseController
	pace  pace
	err   error       // what Read ended with; nil: it has not
	whole atomic.Bool // it was read to its end
}

// newBody bounds the body of r to limit bytes and to the pace of b.
func newBody(w http.ResponseWriter, r *http.Request, b bound, limit int64) *body {
	now := time.Now()
	n := &body{r: http.MaxBytesReader(w, r.Body, limit), rc: http.NewResponseController(w), pace: b.pace(now)}
	n.arm(n.pace.deadline(now)) // for what net/http reads of a body that the handler does not
	return n
}

// arm sets the connection's read deadline. Not every connection has one; those
// that serve a node do.
func (b *body) arm(t time.Time) { _ = b.rc.SetReadDeadline(t) }

// Read implements io.Reader. It ends with errSlow if the caller is too slow.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.arm(b.pace.deadline(time.Now()))
	n, err := b.r.Read(p)
	b.pace.moved += int64(n)
	if err == nil {
		return n, nil
	}
	b.err = err
	switch {
	case errors.Is(err, io.EOF):
		b.whole.Store(true)
		// From here on net/http reads to learn of the caller's going.
		b.arm(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = fmt.Errorf("%w: %d bytes in %v", errSlow, b.pace.moved, time.Since(b.pace.began).Round(time.Second))
	}
	return n, b.err
}

// Close implements io.Closer.
func (b *body) Close() error { return b.r.Close() } //nolint:wrapcheck // of the connection

// leave lets go of a body that was not read to its end. net/http reads some of
// the rest, so that the caller comes to see its answer.
func (b *body) leave() {
	if !b.whole.Load() {
		b.arm(time.Now().Add(lingerTime))
	}
}

// lingerTime is how long the rest of a body that nobody wants is read.
const lingerTime = time.Second

// writeSize is how much of an answer is written with one deadline, in bytes.
const writeSize = 32 << 10

// recorder writes an answer that its caller has to take in time, and remembers
// the status for the log. One goroutine at a time uses it.
type recorder struct {
	http.ResponseWriter
	rc     *http.ResponseController
	body   *body // nil: the request has none
	bound  bound
	pace   pace
	status int
}

func newRecorder(w http.ResponseWriter, b bound) *recorder {
	rec := &recorder{ResponseWriter: w, rc: http.NewResponseController(w), bound: b}
	// The deadline of the connection's last answer is over.
	_ = rec.rc.SetWriteDeadline(time.Time{})
	return rec
}

// arm sets the deadline of the next write. When it has passed, net/http cancels
// the request's context too.
func (w *recorder) arm() {
	now := time.Now()
	if w.pace.began.IsZero() {
		w.pace = w.bound.pace(now)
	}
	_ = w.rc.SetWriteDeadline(w.pace.deadline(now))
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		// Before an answer net/http reads what is left of the body, for the
		// connection's next request, unless there is none.
		if w.body != nil && !w.body.whole.Load() {
			w.Header().Set("Connection", "close")
		}
	}
	w.arm()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	wrote := 0
	for {
		part := b[wrote:min(len(b), wrote+writeSize)]
		w.arm()
		n, err := w.ResponseWriter.Write(part)
		wrote += n
		w.pace.moved += int64(n)
		if err != nil || wrote == len(b) {
			return wrote, err //nolint:wrapcheck // a writer hands on what it wraps
		}
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
