package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// problemTrailer carries the problem of a backup that failed after its first
// byte, as JSON.
const problemTrailer = "Edgefn-Problem"

// BackupOptions of a backup.
type BackupOptions struct {
	NoImages bool // leave the images out
}

// Restoring is a backup that the node has taken, checked and made durable. The
// node stops in good order and starts anew from it.
type Restoring struct {
	Node      string    `json:"node"` // that it is a copy of
	Time      time.Time `json:"time"` // when it was made
	Functions int       `json:"functions"`
}

// Restored is what became of the backup that the node started from.
type Restored struct {
	Restoring
	Old   string   `json:"old,omitempty"`   // where the store is that was there before
	Left  []string `json:"left,omitempty"`  // images that are not here, for people
	Error string   `json:"error,omitempty"` // why nothing was restored, or the images are not yet
}

// StateEntry is a key of a function's state with its value, a line of what is
// exported.
type StateEntry struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// StateImported counts what an import did.
type StateImported struct {
	Written int   `json:"written"` // keys
	Bytes   int64 `json:"bytes"`   // of their values
	Deleted int   `json:"deleted"` // keys that the file does not have
}

// MaxStateLine is how long a line of an import may be, in bytes: the largest
// value in base64, and the largest key with every byte escaped.
const MaxStateLine = (functions.MaxValue+2)/3*4 + 6*functions.MaxKey + 64

// Backup implements Backend. w may not be slow: the node waits for it, for
// stallUpload at most.
func (c *Client) Backup(ctx context.Context, o BackupOptions, w io.Writer) error {
	q := url.Values{}
	if o.NoImages {
		q.Set("images", "false")
	}
	resp, err := c.do(ctx, call{method: http.MethodGet, path: "/backup", query: q, alone: true})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	sink := &sink{w: w}
	_, err = io.Copy(sink, resp.Body)
	switch {
	case sink.err != nil:
		return fmt.Errorf("write the backup: %w", sink.err)
	case err != nil:
		return c.lost(ctx, err)
	}
	if text := resp.Trailer.Get(problemTrailer); text != "" {
		var p Problem
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return fmt.Errorf("decode the node's problem: %w", err)
		}
		return p.err()
	}
	return nil
}

// sink remembers why writing failed, which is not the node's fault.
type sink struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.err = err
	return n, err //nolint:wrapcheck // a writer hands on what it wraps
}

func (s *server) backup(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "images")
	if err != nil {
		return err
	}
	var o BackupOptions
	if t := q.Get("images"); t != "" {
		images, err := strconv.ParseBool(t)
		if err != nil {
			return fmt.Errorf("images %s is neither true nor false: %w", shorten(t), ErrInvalid)
		}
		o.NoImages = !images
	}
	out := &lateHeader{w: w}
	err = s.b.Backup(r.Context(), o, out)
	if err == nil || !out.begun {
		return err
	}
	b, merr := json.Marshal(problemOf(err))
	if merr != nil {
		panic(http.ErrAbortHandler) // that it is cut short tells the client too
	}
	w.Header().Set(problemTrailer, string(b))
	return nil
}

// lateHeader sends the header of a backup with its first byte, so that an error
// before it is an ordinary problem.
type lateHeader struct {
	w     http.ResponseWriter
	begun bool
}

// Write implements io.Writer.
func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Trailer", problemTrailer)
		l.w.Header().Set("Content-Type", "application/x-tar")
	}
	return l.w.Write(p) //nolint:wrapcheck // a writer hands on what it wraps
}

// Restore implements Backend. It reads r and does not close it.
func (c *Client) Restore(ctx context.Context, r io.Reader) (Restoring, error) {
	return send[Restoring](ctx, c, call{method: http.MethodPost, path: "/restore", ctype: "application/x-tar"}, r, "backup")
}

// send is ask with a body that is a reader of the caller's.
func send[T any](ctx context.Context, c *Client, q call, r io.Reader, what string) (T, error) {
	src := &source{r: r}
	q.body = src
	v, err := ask[T](ctx, c, q)
	if err != nil {
		if own := src.failure(); own != nil {
			return v, fmt.Errorf("read %s: %w", what, own)
		}
	}
	return v, err
}

func (s *server) restore(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Restore(r.Context(), r.Body)
	return reply(w, v, s.taken(r, err, "the backup"))
}

// taken is err, or what kept the body of a request from coming. A client that
// still sends would not read how it ended, so the rest is read.
func (s *server) taken(r *http.Request, err error, what string) error {
	b, ok := r.Body.(*body)
	if !ok || err == nil {
		return err
	}
	var large *http.MaxBytesError
	if errors.As(b.err, &large) || errors.Is(b.err, errSlow) {
		err = bodyErr(b.err, what)
	}
	b.pace = bounds[changes].pace(time.Now())
	_, _ = io.Copy(io.Discard, b)
	return err
}

// StateExport implements Backend.
func (c *Client) StateExport(ctx context.Context, name, prefix string, f func(StateEntry) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	q := url.Values{}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	return c.stream(ctx, call{method: http.MethodGet, path: fn(name, "export"), query: q, alone: true}, func(raw json.RawMessage) error {
		var line struct {
			StateEntry
			Problem *Problem `json:"problem"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			return fmt.Errorf("decode a key of the state: %w", err)
		}
		if line.Problem != nil {
			return line.Problem.err()
		}
		return f(line.StateEntry)
	})
}

func (s *server) stateExport(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "prefix")
	if err != nil {
		return err
	}
	if err := checkPrefix("prefix", q.Get("prefix")); err != nil {
		return err
	}
	l := newLines(w)
	return l.end(s.b.StateExport(r.Context(), name, q.Get("prefix"), func(e StateEntry) error { return l.write(e) }))
}

// StateImport implements Backend. It reads r and does not close it.
func (c *Client) StateImport(ctx context.Context, name string, r io.Reader, replace bool) (StateImported, error) {
	if err := checkName(name); err != nil {
		return StateImported{}, err
	}
	q := url.Values{}
	if replace {
		q.Set("replace", "true")
	}
	return send[StateImported](ctx, c, call{method: http.MethodPost, path: fn(name, "import"), query: q, ctype: "application/jsonl"}, r, "state")
}

func (s *server) stateImport(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "replace")
	if err != nil {
		return err
	}
	replace := false
	if t := q.Get("replace"); t != "" {
		if replace, err = strconv.ParseBool(t); err != nil {
			return fmt.Errorf("replace %s is neither true nor false: %w", shorten(t), ErrInvalid)
		}
	}
	v, err := s.b.StateImport(r.Context(), name, r.Body, replace)
	return reply(w, v, s.taken(r, err, "the state"))
}
