package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// beatTime is how often it is looked whether a stream is quiet.
const beatTime = 15 * time.Second

// lines writes an answer as JSON Lines, each flushed. The header goes out with
// the first line, so that an error before it is an ordinary problem.
type lines struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu    sync.Mutex // a Backend may report progress from any goroutine
	begun bool
	ended bool
	quiet bool // no line has gone out since the last beat
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, rc: http.NewResponseController(w)}
}

// write sends one line. Its error means that the client has gone.
func (l *lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	return l.send(append(b, '\n'))
}

// send writes b and flushes it. The caller holds mu.
func (l *lines) send(b []byte) error {
	l.begin()
	l.quiet = false
	if _, err := l.w.Write(b); err != nil {
		return fmt.Errorf("write line: %w", err)
	}
	if err := l.rc.Flush(); err != nil {
		return fmt.Errorf("flush line: %w", err)
	}
	return nil
}

// begin sends the header if it has not gone out. The caller holds mu.
func (l *lines) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/jsonl")
		l.w.WriteHeader(http.StatusOK)
	}
}

// beat sends an empty line whenever none has gone out for beatTime to twice that, until stop
// is called, which waits for its end. A client that closes its connection is
// noticed without that, since net/http reads from the connection. One that sent
// more than its request is not, and neither is a gateway's user whose network
// has gone: with nothing to send, sshd keeps that connection for hours.
func (l *lines) beat() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(beatTime)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if !l.mu.TryLock() {
				continue // a line is on its way
			}
			if l.quiet && !l.ended {
				_ = l.send([]byte("\n")) // what went wrong cancels the request's context
			}
			l.quiet = true
			l.mu.Unlock()
		}
	})
	return func() { close(done); wg.Wait() }
}

// end finishes the stream: with nothing, or with err, which is returned for an
// ordinary answer while no line has gone out, and is the last line after that.
func (l *lines) end(err error) error {
	l.mu.Lock()
	begun := l.begun
	if err == nil {
		l.begin()
	}
	l.mu.Unlock()
	if err != nil && begun {
		// The status has gone out: only a line can tell. If that cannot be
		// written either, the client has gone.
		_ = l.write(struct {
			Problem *Problem `json:"problem"`
		}{problemOf(err)})
		err = nil
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	return err
}

// progress is what a Backend gets to report a step. The client's going is told
// by the request's context.
func (l *lines) progress(p Progress) {
	p.Result, p.Problem = nil, nil // those make the last line, which is not the Backend's
	_ = l.write(p)
}

// deployed ends a stream of progress.
func (l *lines) deployed(d Deployed, err error) error {
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(d); err == nil {
			_ = l.write(Progress{Result: raw})
		}
	}
	return l.end(err)
}

func (s *server) deploy(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "wait")
	if err != nil {
		return err
	}
	o := DeployOptions{}
	if t := q.Get("wait"); t != "" {
		if o.Wait, err = time.ParseDuration(t); err != nil || o.Wait <= 0 {
			return fmt.Errorf("wait %s is not a duration such as 60s: %w", shorten(t), ErrInvalid)
		}
	}
	if r.ContentLength > s.maxImage {
		return s.tooLarge()
	}
	l := newLines(w)
	// Steps are reported while the image is still coming in.
	if err := l.rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("prepare upload: %w", err)
	}
	d, err := s.b.Deploy(r.Context(), r.Body, o, l.progress)
	if b, ok := r.Body.(*body); ok {
		var large *http.MaxBytesError
		switch {
		case errors.As(b.err, &large):
			err = s.tooLarge()
		case errors.Is(b.err, errSlow):
			err = bodyErr(b.err, "the image")
		}
		// A client that still sends would not read how it ended. Now that
		// nobody waits for the image, it has to come at a rate.
		b.pace = bounds[changes].pace(time.Now())
		_, _ = io.Copy(io.Discard, b)
	}
	return l.deployed(d, err)
}

func (s *server) tooLarge() error {
	return fmt.Errorf("the image is over the node's limit of %d bytes: %w", s.maxImage, errTooLarge)
}

func (s *server) rollback(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "to")
	if err != nil {
		return err
	}
	to := q.Get("to")
	if to != "" {
		if err := checkText("version", to, maxVersion); err != nil {
			return err
		}
	}
	l := newLines(w)
	d, err := s.b.Rollback(r.Context(), name, to, l.progress)
	return l.deployed(d, err)
}

func (s *server) logs(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "follow", "since")
	if err != nil {
		return err
	}
	var o LogOptions
	if t := q.Get("follow"); t != "" {
		if o.Follow, err = strconv.ParseBool(t); err != nil {
			return fmt.Errorf("follow %s is neither true nor false: %w", shorten(t), ErrInvalid)
		}
	}
	if t := q.Get("since"); t != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, t); err != nil {
			return fmt.Errorf("since %s is not a time as in RFC 3339: %w", shorten(t), ErrInvalid)
		}
	}
	if r.Method == http.MethodHead {
		o.Follow = false // there is no body to wait for
	}
	l := newLines(w)
	if o.Follow {
		defer l.beat()()
	}
	return l.end(s.b.Logs(r.Context(), name, o, func(line LogLine) error { return l.write(line) }))
}
