package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// DefaultTarget is the control socket of a node that was not told otherwise.
const DefaultTarget = "unix:///run/edgefn/edgefn.sock"

const (
	dialTime  = 5 * time.Second
	helloTime = 10 * time.Second // a small gateway under full load answers late
	maxAnswer = 64 << 20         // bytes of an answer that is no stream
)

// Client reaches a node through its control socket. Its methods are those of
// Backend and fail with the same errors; beside those with ErrUnreach, when
// there is no node to talk to. It is safe for concurrent use.
type Client struct {
	target string
	tunnel *tunnel // nil: the socket is on this machine
	http   *http.Client
	known  atomic.Bool // the other end has said that it is a node
}

var _ Backend = (*Client)(nil)

// Dial returns a client of the node at target: unix://PATH or PATH of its control
// socket on this machine, or ssh://[USER@]HOST[:PORT][/PATH] of the one on
// another, which the user's own ssh program reaches. It does not connect: the
// first call does.
func Dial(target string) (*Client, error) {
	c := &Client{target: target}
	dial, err := c.way(target)
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression: true,
			MaxIdleConns:       4,
			IdleConnTimeout:    30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// way returns what connects to target.
func (c *Client) way(target string) (func(context.Context) (net.Conn, error), error) {
	if strings.HasPrefix(target, sshScheme) {
		var err error
		if c.tunnel, err = newTunnel(target); err != nil {
			return nil, err
		}
		return c.tunnel.dial, nil
	}
	path, isURL := strings.CutPrefix(target, "unix://")
	bad := func(why string) error {
		return &Error{
			Err:     ErrInvalid,
			Message: fmt.Sprintf("node address %s: %s", shorten(target), why),
			Hint:    "name the node's control socket, such as " + DefaultTarget + ", or a gateway, such as ssh://admin@gateway",
		}
	}
	switch {
	case path == "":
		return nil, bad("it has no path")
	case !isURL && strings.Contains(target, "://"):
		return nil, bad("only unix:// and ssh:// addresses are known")
	case isURL && !filepath.IsAbs(path):
		return nil, bad("the path behind unix:// must be absolute")
	case len(path) > maxSocketPath:
		return nil, bad(fmt.Sprintf("the path is %d bytes long, a Unix socket takes at most %d", len(path), maxSocketPath))
	}
	c.target = "unix://" + path
	d := net.Dialer{Timeout: dialTime}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }, nil
}

// Target is the address that the client talks to.
func (c *Client) Target() string { return c.target }

// Close lets go of idle connections, and ends the ssh that was started. No call
// may be under way.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	if c.tunnel != nil {
		c.tunnel.close()
	}
}

// unreach is an error of the way to the node.
func (c *Client) unreach(why, hint string) error {
	return &Error{Err: ErrUnreach, Message: fmt.Sprintf("node at %s is not reachable: %s", c.Target(), why), Hint: hint}
}

// hello makes sure that a node is at the other end, once.
func (c *Client) hello(ctx context.Context) error {
	if c.known.Load() {
		return nil
	}
	if c.tunnel != nil {
		// Logging in takes its time; it is not the node that is slow.
		if _, err := c.tunnel.open(ctx); err != nil {
			if ctx.Err() != nil {
				return c.ended(ctx)
			}
			return err
		}
	}
	hctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	req, err := http.NewRequestWithContext(hctx, http.MethodGet, "http://edgefn/v1", nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return c.ended(ctx)
		}
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			return c.dialErr(err)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return c.unreach(fmt.Sprintf("it took the connection and did not answer in %v", helloTime),
				"if that is an edgefn node, it is stuck: see its log")
		}
		return c.notANode()
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // for the connection to be used again
	switch resp.Header.Get(Header) {
	case Version:
		c.known.Store(true)
		return nil
	case "":
		return c.notANode()
	default:
		return c.unreach(fmt.Sprintf("it speaks the API's version %s, this command %s", shorten(resp.Header.Get(Header)), Version),
			"use the edgefn command of the node's version")
	}
}

func (c *Client) notANode() error {
	if c.tunnel != nil {
		return c.tunnel.closed()
	}
	return c.unreach("what answers there is not an edgefn node",
		"name the node's control socket with --node or EDGEFN_NODE; by default it is "+DefaultTarget)
}

// dialErr says why no connection came about and what to do.
func (c *Client) dialErr(err error) error {
	if c.tunnel != nil {
		return c.tunnel.closed()
	}
	const start = "start it with edgefn node, or name another socket with --node or EDGEFN_NODE"
	socket := strings.TrimPrefix(c.target, "unix://")
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(socket, "/"):
		return c.unreach("there is no such socket", "name a socket by its path, and a gateway as ssh://"+socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return c.unreach("there is no such socket", "is the node running? "+start)
	case errors.Is(err, syscall.ECONNREFUSED):
		return c.unreach("nobody answers; the node that made the socket has ended", start)
	case errors.Is(err, fs.ErrPermission):
		return c.unreach("permission denied", "be root or a member of group "+Group+" (usermod -aG "+Group+" USER, then log in again)")
	default:
		return c.unreach(errText(err), start)
	}
}

// errText is the innermost reason of a network error.
func errText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// call is one request.
type call struct {
	method string
	path   string // escaped, behind /v1
	query  url.Values
	body   io.Reader
	ctype  string
	alone  bool // its connection serves no other request
}

// fn is the path of something that belongs to a function.
func fn(name string, rest ...string) string {
	var b strings.Builder
	b.WriteString("/functions/" + name)
	for _, r := range rest {
		b.WriteString("/" + r)
	}
	return b.String()
}

// do sends a request and returns the answer if it is no problem. The caller
// closes its body.
func (c *Client) do(ctx context.Context, q call) (*http.Response, error) {
	if err := c.hello(ctx); err != nil {
		return nil, err
	}
	u := "http://edgefn/" + Version + q.path
	if len(q.query) > 0 {
		u += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u, q.body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if q.ctype != "" {
		req.Header.Set("Content-Type", q.ctype)
	}
	// What is refused while it is sent breaks its connection, which the next
	// request must not find.
	req.Close = q.body != nil || q.alone
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 && resp.Header.Get(Header) != "" {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.Header.Get(Header) == "" {
		return nil, c.notANode()
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	var p Problem
	if json.Unmarshal(b, &p) != nil || p.Type == "" {
		p = Problem{Detail: "the node answered " + resp.Status}
	}
	return nil, p.err()
}

// ended is the error of a caller that waits no longer.
func (c *Client) ended(ctx context.Context) error {
	why := "interrupted"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		why = "no answer in time"
	}
	return &Error{Err: ctx.Err(), Message: fmt.Sprintf("wait for node at %s: %s", c.Target(), why)}
}

// lost is the error of a connection that broke while the node had to answer.
func (c *Client) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return c.ended(ctx)
	}
	var own *Error
	if errors.As(err, &own) { // of the tunnel
		return own
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return c.dialErr(err)
	}
	if c.tunnel != nil {
		if why := c.tunnel.broken(); why != "" {
			return c.unreach("the way there broke before its answer was complete: "+why, "what it was asked for may have been done: see edgefn status")
		}
	}
	return &Error{
		Err:     ErrUnreach,
		Message: fmt.Sprintf("node at %s closed the connection before its answer was complete: %s", c.Target(), lostText(err)),
		Hint:    "the node has stopped or was killed: see its log, and edgefn status",
	}
}

func lostText(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "end of data"
	}
	return errText(err)
}

// raw returns an answer's body.
func (c *Client) raw(ctx context.Context, q call) ([]byte, error) {
	resp, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("the node's answer is over %d bytes", maxAnswer)
	}
	return b, nil
}

// ask decodes an answer in JSON.
func ask[T any](ctx context.Context, c *Client, q call) (T, error) {
	var v T
	b, err := c.raw(ctx, q)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode the node's answer to %s %s: %w", q.method, q.path, err)
	}
	return v, nil
}

// stream calls f with each line of an answer until it ends or f fails.
func (c *Client) stream(ctx context.Context, q call, f func(json.RawMessage) error) error {
	resp, err := c.do(ctx, q)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	dec := json.NewDecoder(resp.Body)
	for {
		var line json.RawMessage
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.lost(ctx, err)
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
