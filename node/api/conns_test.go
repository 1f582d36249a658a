package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

// others is a process that holds connections to a socket open: those of this
// process do not count.
type others struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// holding starts a process that opens n connections to path, one after the
// other, and sends each of them text.
func holding(t *testing.T, path string, n int, text string) *others {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "API_TEST_HOLD="+path, "API_TEST_COUNT="+strconv.Itoa(n), "API_TEST_TEXT="+text)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &others{t: t, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = in.Close() // with which it ends
		_, _ = io.Copy(io.Discard, o.out)
		_ = cmd.Wait()
	})
	o.wants("opened")
	return o
}

// wants reads what the process says until it says word, and returns the rest of
// that line.
func (o *others) wants(word string) string {
	o.t.Helper()
	for {
		line, err := o.out.ReadString('\n')
		if err != nil {
			o.t.Fatalf("waiting for %q: %v", word, err)
		}
		if rest, ok := strings.CutPrefix(line, word); ok {
			return strings.TrimSpace(rest)
		}
	}
}

// asks sends text on the connection with that number and returns the first line
// of the answer, or what went wrong.
func (o *others) asks(conn int, text string) string {
	o.t.Helper()
	if _, err := fmt.Fprintf(o.in, "%d %q\n", conn, text); err != nil {
		o.t.Fatal(err)
	}
	return o.wants("answer")
}

// hold is what the process does that holding starts.
func hold(path string) error {
	n, err := strconv.Atoi(os.Getenv("API_TEST_COUNT"))
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, os.Getenv("API_TEST_TEXT")) // it may be closed already
		conns[i] = c
	}
	fmt.Println("opened")
	for in := bufio.NewReader(os.Stdin); ; {
		var i int
		var text string
		if _, err := fmt.Fscanf(in, "%d %q\n", &i, &text); err != nil {
			return nil // the test has ended
		}
		_, _ = io.WriteString(conns[i], text) // the answer tells
		_ = conns[i].SetReadDeadline(time.Now().Add(20 * time.Second))
		line, err := bufio.NewReader(conns[i]).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		fmt.Println("answer", strings.TrimSpace(line))
	}
}

const hello = "GET /v1 HTTP/1.1\r\nHost: e\r\n\r\n"

// Of too many connections the one that has been idle for the longest goes, and
// the node reaches itself whatever others hold.
func TestIdleConnections(t *testing.T) {
	path := apitest.Serve(t, backend(), api.Options{})
	o := holding(t, path, 1024+2, "")
	const served = "HTTP/1.1 200 OK"
	for _, c := range []struct {
		conn   int
		served bool
	}{{1025, true}, {0, false}, {1, false}, {2, true}} {
		if got := o.asks(c.conn, hello); (got == served) != c.served {
			t.Errorf("connection %d: %s", c.conn, got)
		}
	}
	c := dial(t, path)
	for range 3 {
		if err := c.Health(t.Context()); err != nil {
			t.Errorf("health: %v", err)
		}
	}
	// Nor did that take another's place.
	if got := o.asks(3, hello); got != served {
		t.Errorf("after the node's own: %s", got)
	}
}

// Where every connection has a request under way, another is closed; the node
// still reaches itself.
func TestBusyConnections(t *testing.T) {
	l, err := net.Listen("unix", socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	var busy atomic.Int32
	full := make(chan struct{})
	apitest.ServeOn(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.Header, api.Version)
		if r.URL.Path != "/held" {
			return
		}
		if busy.Add(1) == 1024 {
			close(full)
		}
		<-r.Context().Done()
	}))
	holding(t, l.Addr().String(), 1024, "GET /held HTTP/1.1\r\nHost: e\r\n\r\n")
	<-full
	late := holding(t, l.Addr().String(), 1, "")
	if got := late.asks(0, hello); strings.HasPrefix(got, "HTTP") {
		t.Errorf("a connection too many: %s", got)
	}
	if err := dial(t, l.Addr().String()).Health(t.Context()); err != nil {
		t.Errorf("health: %v", err)
	}
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir + "/s"
}

// The header of a request has to come in time, and so has the next request.
func TestSilentConnections(t *testing.T) {
	for _, c := range []struct {
		name, text string
		took       time.Duration
	}{
		{"nothing", "", 10 * time.Second},
		{"half a header", "GET /v1 HTTP/1.1\r\nHo", 10 * time.Second},
		{"one request", hello, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			onPipe(t, backend(), func(t *testing.T, conn net.Conn) {
				began := time.Now()
				if c.text != "" {
					send(t, conn, c.text)
				}
				_, _ = io.Copy(io.Discard, conn) // how it is closed is of no interest
				if got := time.Since(began); got < c.took || got > c.took+time.Second {
					t.Errorf("closed after %v, want %v", got, c.took)
				}
			})
		})
	}
}

// Somebody who asks whether the node is healthy has an answer in time, and many
// who ask make one question of it.
func TestHealth(t *testing.T) {
	b := backend()
	c := serve(t, b)
	if err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	b.OnHealth = func(context.Context) error { return fmt.Errorf("it is ill: %w", api.ErrRefused) }
	if err := c.Health(t.Context()); !errors.Is(err, api.ErrRefused) || err.Error() != "it is ill: refused" {
		t.Errorf("an ill node: %v", err)
	}

	b = backend()
	onPipe(t, b, func(t *testing.T, conn net.Conn) {
		var asked atomic.Int32
		end := make(chan struct{})
		defer close(end)
		b.OnHealth = func(context.Context) error {
			asked.Add(1)
			<-end // as one that waits for a lock, it does not look at its context
			return nil
		}
		r := bufio.NewReader(conn)
		for range 10 {
			began := time.Now()
			send(t, conn, "GET /v1/health HTTP/1.1\r\nHost: e\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "cannot be reached") {
				t.Errorf("%s %s %v", resp.Status, text, err)
			}
			if got := time.Since(began); got != 5*time.Second {
				t.Errorf("answered after %v", got)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("the node was asked %d times", n)
		}
	})
}
