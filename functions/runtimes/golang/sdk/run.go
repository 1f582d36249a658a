package edgefn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Handler handles one event; see the package documentation for what it returns.
type Handler func(ctx context.Context, e Event) (any, error)

const (
	socketFD = 3
	exUsage  = 2
)

// Run serves events with a handler. It is called once, by main, and does not
// return. Work that needs to be done once per process, before the first event,
// is done before it.
func Run(h Handler) {
	var st syscall.Stat_t
	if err := syscall.Fstat(socketFD, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		fmt.Fprintln(os.Stderr, "this program is an edgefn function: it is started by a node, with a socket as file 3; try: edgefn deploy")
		os.Exit(exUsage)
	}
	syscall.CloseOnExec(socketFD)
	once := os.Getenv("EDGEFN_ISOLATION") != "instance"
	if err := serve(os.NewFile(socketFD, "node"), h, once); err != nil {
		fmt.Fprintln(os.Stderr, "edgefn:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve says hello and serves events until the node closes the connection, or
// one event if once is set.
func serve(rw io.ReadWriter, h Handler, once bool) error {
	c := &conn{rw: rw, limit: defaultLimit}
	err := c.write("hello", 0, map[string]any{
		"v": uint64(wireVersion), "runtime": strings.Replace(runtime.Version(), "go", "go ", 1), "sdk": Version,
	})
	for err == nil {
		if err = c.serveOne(h); once {
			break
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return nil // the node is done with this instance
	}
	return err
}

func (c *conn) serveOne(h Handler) error {
	f, err := c.read()
	if err != nil {
		return err
	}
	if f.kind != "event" {
		return fmt.Errorf("the node sent %s where an event was due", f.kind)
	}
	attributes, _ := f.body["event"].(map[string]any)
	about, _ := f.body["context"].(map[string]any)
	c.limit = defaultLimit
	if n, ok := about["max_frame"].(uint64); ok {
		c.limit = int(n)
	}
	l := &link{c: c}
	ctx, cancel := invocation(l, about)
	defer cancel()

	v, fail := protect(ctx, h, eventOf(attributes))
	l.end()
	if fail == nil {
		data, mediaType, err := payload(v, "result")
		if err == nil {
			err = c.write("result", f.id, map[string]any{"data": data, "datacontenttype": mediaType})
		}
		var sys syscall.Errno
		if err == nil || errors.As(err, &sys) {
			return err
		}
		fail = &failure{kind: "result", message: err.Error()}
	}
	return c.write("failure", f.id, fail.body())
}

func invocation(l *link, about map[string]any) (context.Context, context.CancelFunc) {
	text := func(key string) string { s, _ := about[key].(string); return s }
	attempt, _ := about["attempt"].(uint64)
	left, _ := about["deadline_ms"].(uint64)
	ctx := withNode(context.Background(), l, Invocation{
		ID: text("invocation"), Function: text("function"), Version: text("version"),
		Trigger: text("trigger"), Attempt: int(attempt),
	})
	return context.WithTimeout(ctx, time.Duration(left)*time.Millisecond)
}

// failure is what a failure frame says.
type failure struct {
	kind, message, detail string
	retryAfter            time.Duration // of raised
}

const maxMessage = 2000

// protect calls the handler and makes a failure of its error or panic.
func protect(ctx context.Context, h Handler, e Event) (v any, fail *failure) {
	defer func() {
		if r := recover(); r != nil {
			fail = &failure{kind: "raised", message: oneLine(fmt.Sprint("panic: ", r)), detail: ownStack(debug.Stack())}
		}
	}()
	v, err := h(ctx, e)
	if err != nil {
		return nil, failureOf(err)
	}
	return v, nil
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = s[:maxMessage] + " ..."
	}
	return s
}

// ownStack returns what of a stack that was taken in a deferred call is the
// author's: from where it panicked to the handler.
func ownStack(stack []byte) string {
	lines := strings.SplitAfter(string(stack), "\n")
	first := 1
	for i, l := range lines {
		if strings.HasPrefix(l, "panic(") {
			first = i + 2 // a call takes two lines
		}
	}
	var own strings.Builder
	for _, l := range lines[min(first, len(lines)):] {
		if strings.HasPrefix(l, self+".protect(") {
			break
		}
		own.WriteString(l)
	}
	return own.String()
}

// self is the path of this package, as stacks name it.
var self = func() string {
	pc, _, _, _ := runtime.Caller(0)
	name := runtime.FuncForPC(pc).Name() // PATH.init or PATH.glob..func1
	slash := strings.LastIndex(name, "/") + 1
	return name[:slash+strings.Index(name[slash:], ".")]
}()
