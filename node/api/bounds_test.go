package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

// gated is a Backend that keeps what it is asked for while hold is set.
type gated struct {
	*apitest.Backend
	hold atomic.Bool
	held chan struct{}
}

// gate says on held that it keeps somebody, until that one goes.
func (g *gated) gate(ctx context.Context) error {
	if !g.hold.Load() {
		return nil
	}
	g.held <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func (g *gated) Status(ctx context.Context) (api.Status, error) {
	return api.Status{}, g.gate(ctx)
}

func (g *gated) StatePut(ctx context.Context, _, _ string, _ []byte) error { return g.gate(ctx) }

func (g *gated) Invoke(ctx context.Context, _ string, _ api.InvokeRequest) (api.Invoked, error) {
	return api.Invoked{}, g.gate(ctx)
}

func (g *gated) DeadRetry(ctx context.Context, _, _ string) (api.DeadOutcome, error) {
	return api.DeadOutcome{}, g.gate(ctx)
}

func (g *gated) Rollback(ctx context.Context, _, _ string, _ func(api.Progress)) (api.Deployed, error) {
	return api.Deployed{}, g.gate(ctx)
}

func (g *gated) Deploy(ctx context.Context, image io.Reader, _ api.DeployOptions, _ func(api.Progress)) (api.Deployed, error) {
	if _, err := io.Copy(io.Discard, image); err != nil {
		return api.Deployed{}, err
	}
	return api.Deployed{}, g.gate(ctx)
}

func (g *gated) Backup(ctx context.Context, _ api.BackupOptions, _ io.Writer) error {
	return g.gate(ctx)
}

func (g *gated) Logs(ctx context.Context, _ string, _ api.LogOptions, _ func(api.LogLine) error) error {
	return g.gate(ctx)
}

// Every class of requests is filled with requests that are held open. One more
// of it is refused and told why; every other class, and the node's own check,
// are answered.
func TestFullClass(t *testing.T) {
	type request struct{ method, url, body string }
	classes := []struct {
		class int // requests of one class share their slots
		name  string
		slots int
		hint  string
		request
	}{
		{0, "short reads", 64, "try again", request{"GET", "/v1/status", ""}},
		{1, "short changes", 64, "try again", request{"PUT", "/v1/functions/fan/state/k", "v"}},
		{2, "invocations", 256, "broker", request{"POST", "/v1/functions/fan/invoke", "{}"}},
		{2, "retries of dead letters", 256, "broker", request{"POST", "/v1/functions/fan/dead/retry", ""}},
		{3, "rollbacks", 16, "try again", request{"POST", "/v1/functions/fan/rollback", ""}},
		{4, "deploys", 8, "try again", request{"POST", "/v1/functions", "tar"}},
		{6, "backups, restores, exports and imports", 2, "try again", request{"GET", "/v1/backup", ""}},
		{5, "readers of logs", 256, "logs -f", request{"GET", "/v1/functions/fan/logs?follow=true", ""}},
	}
	for _, full := range classes {
		t.Run(full.name, func(t *testing.T) {
			b := &gated{Backend: backend(), held: make(chan struct{})}
			path := apitest.Serve(t, b, api.Options{})
			b.hold.Store(true)
			for range full.slots {
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				_, err = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: edgefn\r\nContent-Length: %d\r\n\r\n%s", full.method, full.url, len(full.body), full.body)
				if err != nil {
					t.Fatal(err)
				}
				<-b.held
			}
			b.hold.Store(false)
			for _, other := range classes {
				resp := ask(t, path, other.method, other.url, other.body)
				refused := resp.StatusCode == http.StatusTooManyRequests
				if refused != (other.class == full.class) {
					t.Errorf("%s: %s", other.name, resp.Status)
				}
				if !refused {
					continue
				}
				var p api.Problem
				if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(p.Detail, fmt.Sprint(full.slots)) || !strings.Contains(p.Detail, full.name) || !strings.Contains(p.Hint, full.hint) {
					t.Errorf("problem %+v", p)
				}
			}
			if err := dial(t, path).Health(t.Context()); err != nil {
				t.Errorf("health: %v", err)
			}
		})
	}
}

// Slots are given back, and a client hears of a full class as of any error.
func TestSlotsComeBack(t *testing.T) {
	b := &gated{Backend: backend(), held: make(chan struct{})}
	b.hold.Store(true)
	c := dial(t, apitest.Serve(t, b, api.Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	for range 8 {
		go func() {
			_, err := c.Deploy(ctx, strings.NewReader("tar"), api.DeployOptions{}, nil)
			done <- err
		}()
		<-b.held
	}
	b.hold.Store(false)
	// It is told while the client still sends.
	_, err := c.Deploy(ctx, io.LimitReader(zeros{}, 64<<20), api.DeployOptions{}, nil)
	if !errors.Is(err, api.ErrOverloaded) || !strings.Contains(err.Error(), "8 deploys already") || api.Hint(err) == "" {
		t.Errorf("a ninth deploy: %v", err)
	}
	cancel()
	for range 8 {
		<-done
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := c.Deploy(t.Context(), strings.NewReader("tar"), api.DeployOptions{}, nil)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("slots are not given back: %v", err)
		}
	}
}

// pipes is a listener of connections in memory, for tests on a fake clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipe"} }

// onPipe runs f with a connection to a server of b, on a fake clock.
func onPipe(t *testing.T, b api.Backend, f func(t *testing.T, c net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		apitest.ServeOn(t, l, api.NewServer(b, api.Options{}))
		here, there := net.Pipe()
		l.conns <- there
		defer func() { _ = here.Close() }()
		f(t, here)
	})
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// A body has to come, all the while and as a whole.
func TestSlowBody(t *testing.T) {
	const (
		invoke = "POST /v1/functions/fan/invoke HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
		put    = "PUT /v1/functions/fan/state/k HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
		image  = "POST /v1/functions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
		status = "GET /v1/status HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
	)
	for _, c := range []struct {
		name   string
		head   string
		whole  int // bytes that the header announces
		part   int // bytes sent at once, the last part included
		parts  int
		every  time.Duration
		status int
		took   time.Duration
	}{
		{"nothing comes", invoke, 10, 0, 0, 0, 408, 30 * time.Second},
		{"it stops", invoke, 10, 5, 1, time.Second, 408, 30 * time.Second},
		{"a byte now and then", invoke, 1000, 1, 1000, 7 * time.Second, 408, 30 * time.Second},
		{"a value", put, 10, 5, 1, time.Second, 408, 30 * time.Second},
		{"a link of 8 kB/s", put, 400 << 10, 8 << 10, 50, time.Second, 204, 50 * time.Second},
		{"an image that stops", image, 10, 5, 1, time.Second, 408, 61 * time.Second},
		{"an image on a bad link", image, 30, 1, 30, 50 * time.Second, 200, 25 * time.Minute},
		{"a body that nobody reads", status, 10, 0, 0, 0, 200, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			onPipe(t, backend(), func(t *testing.T, conn net.Conn) {
				began := time.Now()
				send(t, conn, fmt.Sprintf(c.head, c.whole))
				var sender sync.WaitGroup
				defer sender.Wait()
				defer func() { _ = conn.Close() }()
				sender.Go(func() {
					for range c.parts {
						time.Sleep(c.every)
						if _, err := conn.Write(bytes.Repeat([]byte(" "), c.part)); err != nil {
							return
						}
					}
				})
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				text, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if got := time.Since(began).Truncate(time.Second); got != c.took {
					t.Errorf("took %v, want %v", got, c.took)
				}
				got := resp.StatusCode
				if c.head == image && strings.Contains(string(text), "problem") { // in the last line
					got = 408
				}
				if got != c.status || (got == 408) != strings.Contains(string(text), "urn:edgefn:slow") {
					t.Errorf("%s: %s", resp.Status, text)
				}
				if got == 408 && !strings.Contains(string(text), "link") {
					t.Errorf("no advice: %s", text)
				}
				if c.parts*c.part == c.whole {
					return
				}
				// What is broken off is no connection for another request.
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("after the answer: %v", err)
				}
				if got := time.Since(began); got > c.took+2*time.Second {
					t.Errorf("closed after %v", got)
				}
			})
		})
	}
}

// Somebody who follows a log and reads no more is let go.
func TestStalledReader(t *testing.T) {
	b := backend()
	onPipe(t, b, func(t *testing.T, c net.Conn) {
		ended := make(chan time.Time, 1)
		b.OnLogs = func(ctx context.Context, _ string, _ api.LogOptions, f func(api.LogLine) error) error {
			defer func() { ended <- time.Now() }()
			for {
				if err := f(api.LogLine{Text: strings.Repeat("x", 1000)}); err != nil {
					if ctx.Err() == nil {
						t.Error("the request's context lives on")
					}
					return err
				}
				time.Sleep(time.Second)
			}
		}
		send(t, c, "GET /v1/functions/fan/logs?follow=true HTTP/1.1\r\nHost: e\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		r := bufio.NewReader(resp.Body)
		for range 100 { // it may be slow
			if _, err := r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		last := time.Now()
		if got := (<-ended).Sub(last); got < 19*time.Second || got > 31*time.Second {
			t.Errorf("ended %v after the last line was read", got)
		}
	})
}

// A short answer has to be taken as a whole, too.
func TestSlowReader(t *testing.T) {
	b := backend()
	b.Node.Warnings = []string{strings.Repeat("x", 400<<10)}
	onPipe(t, b, func(t *testing.T, c net.Conn) {
		began := time.Now()
		send(t, c, "GET /v1/status HTTP/1.1\r\nHost: e\r\n\r\n")
		buf := make([]byte, 100)
		n := 0
		for {
			k, err := c.Read(buf)
			n += k
			if err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); n > 10<<10 || took > time.Minute {
			t.Errorf("%d bytes in %v", n, took)
		}
	})
}

// A log in which nothing happens shows that it is followed, and that one who
// follows has gone, although net/http does not look once something more was sent.
func TestQuietStream(t *testing.T) {
	b := backend()
	b.Lines = nil
	onPipe(t, b, func(t *testing.T, c net.Conn) {
		ended := make(chan struct{})
		b.OnLogs = func(ctx context.Context, _ string, _ api.LogOptions, _ func(api.LogLine) error) error {
			defer close(ended)
			<-ctx.Done()
			return nil
		}
		began := time.Now()
		send(t, c, "GET /v1/functions/fan/logs?follow=true HTTP/1.1\r\nHost: e\r\n\r\n")
		send(t, c, "G")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 100)
		if _, err := io.ReadFull(resp.Body, text); err != nil || strings.Trim(string(text), "\n") != "" {
			t.Fatalf("%q %v", text, err)
		}
		if got := time.Since(began); got < 100*15*time.Second || got > 100*30*time.Second {
			t.Errorf("100 empty lines in %v", got)
		}
		_ = c.Close()
		_ = resp.Body.Close() // which reads on
		gone := time.Now()
		<-ended
		if got := time.Since(gone); got > 30*time.Second {
			t.Errorf("noticed after %v", got)
		}
	})
}

// The client skips the empty lines of a stream, and what was too slow is a
// time-out to it.
func TestClientOfBounds(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	apitest.ServeOn(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.Header, api.Version)
		switch {
		case strings.HasSuffix(r.URL.Path, "/logs"):
			_, _ = io.WriteString(w, "\n\n{\"text\":\"one\"}\n\n{\"text\":\"two\"}\n\n")
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusRequestTimeout)
			_, _ = io.WriteString(w, `{"type":"urn:edgefn:slow","detail":"too slow","hint":"hurry"}`)
		}
	}))
	c := dial(t, l.Addr().String())
	var got []string
	err = c.Logs(t.Context(), "fan", api.LogOptions{}, func(line api.LogLine) error {
		got = append(got, line.Text)
		return nil
	})
	same(t, "Logs", got, []string{"one", "two"}, err)
	if err := c.StatePut(t.Context(), "fan", "k", nil); !errors.Is(err, api.ErrTimeout) || api.Hint(err) != "hurry" {
		t.Errorf("a slow body: %v", err)
	}
}

// A rollback that takes its time between two words of progress is not taken for a
// caller who does not read.
func TestLongRollback(t *testing.T) {
	b := backend()
	b.OnRollback = func(_ context.Context, name, _ string, progress func(api.Progress)) (api.Deployed, error) {
		for _, step := range []string{"check", "activate", "drain"} {
			progress(api.Progress{Step: step, Text: step})
			time.Sleep(50 * time.Second)
		}
		return api.Deployed{Name: name, Version: "sha256:1"}, nil
	}
	onPipe(t, b, func(t *testing.T, c net.Conn) {
		send(t, c, "POST /v1/functions/fan/rollback HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(text), "sha256:1") {
			t.Errorf("answer %s, %v", text, err)
		}
	})
}
