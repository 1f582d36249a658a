package execshim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions/wire"
)

// controlPath is the socket of the shim in the cell's own /tmp.
const controlPath = "/tmp/.edgefn-ctl"

// controlVar tells edgefn-ctl where the shim listens.
const controlVar = "EDGEFN_CTL"

// stderrTail is how much of a program's last words goes into its failure.
const stderrTail = 2 << 10

// sdkVersion is told in the hello frame.
const sdkVersion = "1"

// shim is the instance's end of the wire.
type shim struct {
	conn *wire.Conn
	argv []string
	max  int // bytes of a frame that the node takes

	mu      sync.Mutex // one call at a time: the node answers in turn
	calls   uint64
	replies chan wire.Frame // from the reader of the wire
}

// Run is the shim's main program: args are "--" and then the argv of the
// program. Descriptor 3 is the wire. It returns the exit status.
func Run(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	f := os.NewFile(3, "wire")
	s := &shim{conn: wire.NewConn(f, wire.MaxFrame+wire.Overhead), argv: args, max: wire.MaxFrame + wire.Overhead, replies: make(chan wire.Frame)}
	if err := s.check(); err != nil {
		_ = s.conn.Write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: err.Error()})
		return 1
	}
	control := os.Getenv(controlVar)
	if control == "" {
		control = controlPath
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", control)
	if err != nil {
		_ = s.conn.Write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: "listen for edgefn-ctl: " + err.Error()})
		return 1
	}
	defer l.Close()
	go s.serveCtl(l)
	if err := s.conn.Write(wire.KindHello, 0, wire.Hello{V: wire.Version, Runtime: "exec", SDK: sdkVersion}); err != nil {
		return 1
	}
	events := make(chan wire.Frame)
	go func() {
		defer close(events)
		for {
			fr, err := s.conn.Read()
			if err != nil {
				return
			}
			if fr.Kind == wire.KindEvent {
				events <- fr
			} else {
				s.replies <- fr
			}
		}
	}()
	for fr := range events {
		if err := s.handle(fr, control); err != nil {
			fmt.Fprintln(os.Stderr, "edgefn:", err)
			return 1
		}
	}
	return 0
}

// check reports why the program cannot be run.
func (s *shim) check() error {
	if len(s.argv) == 0 {
		return errors.New("handler names no program")
	}
	if _, err := exec.LookPath(s.argv[0]); err != nil {
		return fmt.Errorf("handler %q cannot be run: %w (is it in the function's folder, executable, and its #! line right?)", s.argv[0], err)
	}
	return nil
}

func (s *shim) handle(fr wire.Frame, control string) error {
	var b wire.EventBody
	if err := fr.Into(&b); err != nil {
		return err
	}
	if b.Context.MaxFrame > 0 {
		s.max = b.Context.MaxFrame
	}
	data, _ := b.Event["data"].([]byte)
	out, tail := &limited{max: s.max - wire.Overhead}, &tail{max: stderrTail}
	cmd := exec.Command(s.argv[0], s.argv[1:]...) //nolint:noctx // the node ends the whole cell at the timeout
	cmd.Env = append(os.Environ(), environment(b, control)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), out, io.MultiWriter(os.Stderr, tail)
	cmd.WaitDelay = 100 * time.Millisecond // a child left behind must not hold the result back
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		return s.conn.Write(wire.KindFailure, fr.ID, wire.Failure{Kind: "raised", Message: s.argv[0] + ": " + ee.Error(), Detail: tail.String()})
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return s.conn.Write(wire.KindFailure, fr.ID, wire.Failure{Kind: "raised", Message: err.Error(), Detail: tail.String()})
	case out.over:
		return s.conn.Write(wire.KindFailure, fr.ID, wire.Failure{Kind: "result", Message: fmt.Sprintf("result is too large: more than %d bytes on stdout", out.max)})
	case out.Len() == 0:
		return s.conn.Write(wire.KindResult, fr.ID, wire.Result{})
	}
	return s.conn.Write(wire.KindResult, fr.ID, wire.Result{Data: out.Bytes()})
}

// environment is what the program knows of its event and invocation.
func environment(b wire.EventBody, control string) []string {
	c := b.Context
	env := []string{
		"EDGEFN_INVOCATION=" + c.Invocation, "EDGEFN_FUNCTION=" + c.Function, "EDGEFN_VERSION=" + c.Version,
		"EDGEFN_TRIGGER=" + c.Trigger, "EDGEFN_ATTEMPT=" + strconv.Itoa(c.Attempt),
		"EDGEFN_DEADLINE_MS=" + strconv.FormatInt(c.DeadlineMS, 10), controlVar + "=" + control,
	}
	for k, v := range b.Event {
		if text, ok := v.(string); ok && !strings.ContainsRune(text, 0) {
			env = append(env, "EDGEFN_EVENT_"+strings.ToUpper(k)+"="+text)
		}
	}
	return env
}

// call asks the node and waits for its answer.
func (s *shim) call(kind wire.Kind, c wire.Call) (wire.Frame, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if err := s.conn.Write(kind, s.calls, c); err != nil {
		return wire.Frame{}, err
	}
	return <-s.replies, nil
}

// serveCtl answers each edgefn-ctl: one frame in, the node's answer out.
func (s *shim) serveCtl(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			wc := wire.NewConn(c, s.max)
			fr, err := wc.Read()
			if err != nil {
				return
			}
			if fr.Kind == wire.KindLog {
				var b wire.Log
				if fr.Into(&b) == nil && s.conn.Write(wire.KindLog, 0, b) == nil {
					_ = wc.Write(wire.KindOK, 0, wire.Reply{})
				}
				return
			}
			var call wire.Call
			if err := fr.Into(&call); err != nil {
				_ = wc.Write(wire.KindError, 0, wire.Reply{Message: err.Error()})
				return
			}
			answer, err := s.call(fr.Kind, call)
			var r wire.Reply
			if err == nil {
				err = answer.Into(&r)
			}
			if err != nil {
				answer.Kind, r = wire.KindError, wire.Reply{Message: err.Error()}
			}
			_ = wc.Write(answer.Kind, 0, r)
		}()
	}
}

// limited keeps at most max bytes and remembers that there were more.
type limited struct {
	bytes.Buffer
	max  int
	over bool
}

// Write implements io.Writer. It takes everything, so that the program goes on.
func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > l.max {
		l.over = true
		return len(b), nil
	}
	return l.Buffer.Write(b)
}

// tail keeps the last max bytes.
type tail struct {
	b   []byte
	max int
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if len(t.b) > t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
	}
	return len(b), nil
}

// String returns what was kept.
func (t *tail) String() string { return string(t.b) }
