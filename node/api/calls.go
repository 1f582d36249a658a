package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Deploy implements Backend. It reads image and does not close it.
func (c *Client) Deploy(ctx context.Context, image io.Reader, o DeployOptions, progress func(Progress)) (Deployed, error) {
	q := url.Values{}
	if o.Wait != 0 {
		q.Set("wait", o.Wait.String())
	}
	src := &source{r: image}
	d, err := c.deployed(ctx, call{method: http.MethodPost, path: "/functions", query: q, body: src, ctype: "application/x-tar"}, progress)
	if err != nil {
		if own := src.failure(); own != nil {
			return Deployed{}, fmt.Errorf("read image: %w", own)
		}
	}
	return d, err
}

// source remembers why reading the image failed, which is not the node's
// fault. It also hides a Close of the reader's from net/http.
type source struct {
	r io.Reader

	mu  sync.Mutex // net/http reads in a goroutine of its own
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err //nolint:wrapcheck // a reader hands on what it wraps
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Rollback implements Backend.
func (c *Client) Rollback(ctx context.Context, name, to string, progress func(Progress)) (Deployed, error) {
	if err := checkName(name); err != nil {
		return Deployed{}, err
	}
	q := url.Values{}
	if to != "" {
		q.Set("to", to)
	}
	return c.deployed(ctx, call{method: http.MethodPost, path: fn(name, "rollback"), query: q}, progress)
}

// deployed reads a stream of progress to its last line.
func (c *Client) deployed(ctx context.Context, q call, progress func(Progress)) (Deployed, error) {
	var (
		d    Deployed
		done bool
	)
	err := c.stream(ctx, q, func(line json.RawMessage) error {
		var p Progress
		if err := json.Unmarshal(line, &p); err != nil {
			return fmt.Errorf("decode the node's progress: %w", err)
		}
		switch {
		case p.Problem != nil:
			return p.Problem.err()
		case p.Result != nil:
			done = true
			if err := json.Unmarshal(p.Result, &d); err != nil {
				return fmt.Errorf("decode the node's answer: %w", err)
			}
		case progress != nil:
			progress(p)
		}
		return nil
	})
	if err == nil && !done {
		err = c.lost(ctx, io.ErrUnexpectedEOF)
	}
	return d, err
}

// Functions implements Backend.
func (c *Client) Functions(ctx context.Context) ([]FunctionInfo, error) {
	return ask[[]FunctionInfo](ctx, c, call{method: http.MethodGet, path: "/functions"})
}

// Describe implements Backend.
func (c *Client) Describe(ctx context.Context, name string) (FunctionDetail, error) {
	if err := checkName(name); err != nil {
		return FunctionDetail{}, err
	}
	return ask[FunctionDetail](ctx, c, call{method: http.MethodGet, path: fn(name)})
}

// Invoke implements Backend.
func (c *Client) Invoke(ctx context.Context, name string, r InvokeRequest) (Invoked, error) {
	if err := checkName(name); err != nil {
		return Invoked{}, err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return Invoked{}, fmt.Errorf("encode event: %w", err)
	}
	return ask[Invoked](ctx, c, call{method: http.MethodPost, path: fn(name, "invoke"), body: bytes.NewReader(b), ctype: "application/json"})
}

// Logs implements Backend.
func (c *Client) Logs(ctx context.Context, name string, o LogOptions, f func(LogLine) error) error {
	if err := checkName(name); err != nil {
		return err
	}
	q := url.Values{}
	if o.Follow {
		q.Set("follow", "true")
	}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.Format(time.RFC3339Nano))
	}
	err := c.stream(ctx, call{method: http.MethodGet, path: fn(name, "logs"), query: q}, func(raw json.RawMessage) error {
		var line struct {
			LogLine
			Problem *Problem `json:"problem"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			return fmt.Errorf("decode log line: %w", err)
		}
		if line.Problem != nil {
			return line.Problem.err()
		}
		return f(line.LogLine)
	})
	if o.Follow && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // following ends when the caller says so
	}
	return err
}

// Remove implements Backend.
func (c *Client) Remove(ctx context.Context, name string, o RemoveOptions) error {
	if err := checkName(name); err != nil {
		return err
	}
	q := call{method: http.MethodDelete, path: fn(name)}
	if o.KeepState {
		q.query = url.Values{"keep_state": {"true"}}
	}
	_, err := c.raw(ctx, q)
	return err
}

// Kept implements Backend.
func (c *Client) Kept(ctx context.Context, name string) (Kept, error) {
	if err := checkName(name); err != nil {
		return Kept{}, err
	}
	return ask[Kept](ctx, c, call{method: http.MethodGet, path: fn(name, "kept")})
}

// StateGet implements Backend.
func (c *Client) StateGet(ctx context.Context, name, key string) ([]byte, error) {
	if err := errors.Join(checkName(name), checkKey(key)); err != nil {
		return nil, err
	}
	return c.raw(ctx, call{method: http.MethodGet, path: fn(name, "state", escape(key))})
}

// StatePut implements Backend.
func (c *Client) StatePut(ctx context.Context, name, key string, value []byte) error {
	if err := errors.Join(checkName(name), checkKey(key)); err != nil {
		return err
	}
	_, err := c.raw(ctx, call{method: http.MethodPut, path: fn(name, "state", escape(key)), body: bytes.NewReader(value), ctype: "application/octet-stream"})
	return err
}

// StateDelete implements Backend.
func (c *Client) StateDelete(ctx context.Context, name, key string) error {
	if err := errors.Join(checkName(name), checkKey(key)); err != nil {
		return err
	}
	_, err := c.raw(ctx, call{method: http.MethodDelete, path: fn(name, "state", escape(key))})
	return err
}

// StateList implements Backend. A page has 1000 keys at most, whatever the limit.
func (c *Client) StateList(ctx context.Context, name, prefix, after string, limit int) ([]StateKey, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	q := url.Values{}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return ask[[]StateKey](ctx, c, call{method: http.MethodGet, path: fn(name, "state"), query: q})
}

// DeadList implements Backend.
func (c *Client) DeadList(ctx context.Context, name string) ([]DeadLetter, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return ask[[]DeadLetter](ctx, c, call{method: http.MethodGet, path: fn(name, "dead")})
}

// DeadShow implements Backend.
func (c *Client) DeadShow(ctx context.Context, name, id string) (DeadLetter, error) {
	if err := errors.Join(checkName(name), checkText("dead letter's id", id, maxID)); err != nil {
		return DeadLetter{}, err
	}
	return ask[DeadLetter](ctx, c, call{method: http.MethodGet, path: fn(name, "dead", escape(id))})
}

// DeadRetry implements Backend.
func (c *Client) DeadRetry(ctx context.Context, name, id string) (DeadOutcome, error) {
	return c.dead(ctx, http.MethodPost, name, id, "retry")
}

// DeadDelete implements Backend.
func (c *Client) DeadDelete(ctx context.Context, name, id string) (DeadOutcome, error) {
	return c.dead(ctx, http.MethodDelete, name, id)
}

// dead does something to one dead letter, or to all if id is empty.
func (c *Client) dead(ctx context.Context, method, name, id string, verb ...string) (DeadOutcome, error) {
	if err := checkName(name); err != nil {
		return DeadOutcome{}, err
	}
	rest := []string{"dead"}
	if id != "" {
		if err := checkText("dead letter's id", id, maxID); err != nil {
			return DeadOutcome{}, err
		}
		rest = append(rest, escape(id))
	}
	return ask[DeadOutcome](ctx, c, call{method: method, path: fn(name, append(rest, verb...)...)})
}

// Usage implements Backend.
func (c *Client) Usage(ctx context.Context, name string) ([]Usage, error) {
	q := url.Values{}
	if name != "" {
		q.Set("function", name)
	}
	return ask[[]Usage](ctx, c, call{method: http.MethodGet, path: "/usage", query: q})
}

// Status implements Backend.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, call{method: http.MethodGet, path: "/status"})
}

// MQTTClients implements Backend.
func (c *Client) MQTTClients(ctx context.Context, after string, limit int) ([]MQTTClient, error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return ask[[]MQTTClient](ctx, c, call{method: http.MethodGet, path: "/mqtt/clients", query: q})
}

// Devices implements Backend.
func (c *Client) Devices(ctx context.Context) (Devices, error) {
	return ask[Devices](ctx, c, call{method: http.MethodGet, path: "/devices"})
}

// Simulate implements Backend.
func (c *Client) Simulate(ctx context.Context, name, what string) error {
	if err := errors.Join(checkDevice(name), checkText("simulation", what, maxID)); err != nil {
		return err
	}
	q := url.Values{"what": {what}}
	_, err := c.raw(ctx, call{method: http.MethodPost, path: "/devices/" + escape(name) + "/simulate", query: q})
	return err
}
