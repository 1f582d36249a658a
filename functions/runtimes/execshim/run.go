package execshim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/edgefn/edgefn/functions/wire"
)

// SDK is the version of the shim, as its hello says.
const SDK = "4"

const (
	socketFD = 3
	// readLimit bounds what the node may send. The node is trusted; this is the
	// size at which something is plainly wrong.
	readLimit = 1 << 30
)

// Exit statuses of Run and Ctl.
const (
	exOK       = 0
	exFailed   = 1
	exUsage    = 2
	exNotFound = 4
)

// Run serves events with the program that args name: "--", then its argv. It
// returns the exit status of the process.
func Run(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(socketFD, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFSOCK || len(args) == 0 {
		fmt.Fprintln(os.Stderr, "edgefn-init exec: this is started by a node: exec -- PROGRAM [ARGUMENT...], with a socket to the node as file 3")
		return exUsage
	}
	syscall.CloseOnExec(socketFD)
	f := os.NewFile(socketFD, "node")
	if err := serve(f, args); err != nil && !gone(err) {
		fmt.Fprintln(os.Stderr, "edgefn-init exec:", err)
		return exFailed
	}
	return exOK
}

// gone reports whether err says that the node is done with this instance.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func serve(rw io.ReadWriter, argv []string) error {
	n := &node{conn: wire.NewConn(rw, readLimit)}
	n.limit.Store(wire.MaxFrame + wire.Overhead)
	path, err := look(argv[0])
	if err != nil {
		return n.write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: err.Error()})
	}
	dir, err := os.MkdirTemp("", "edgefn-")
	if err != nil {
		return n.write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: "make the socket of edgefn-ctl: " + err.Error()})
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the cell's own /tmp
	socket := filepath.Join(dir, "ctl")
	door, err := openDoor(socket, n)
	if err != nil {
		return n.write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: "make the socket of edgefn-ctl: " + err.Error()})
	}
	defer door.close()

	if err := n.write(wire.KindHello, 0, wire.Hello{V: wire.Version, Runtime: "exec", SDK: SDK}); err != nil {
		return err
	}
	once := os.Getenv("EDGEFN_ISOLATION") != "instance"
	for {
		id, body, err := n.event()
		if err != nil {
			return err
		}
		p := program{
			path: path, argv: argv, limit: n.limit.Load(),
			env: environ(os.Environ(), body, socket), data: dataOf(body),
		}
		out, stderr, fail := p.run()
		if asked := n.end(); asked != nil {
			asked.Detail = stderr
			fail = asked
		}
		if fail == nil {
			err = n.write(wire.KindResult, id, wire.Result{Data: out})
			if errors.Is(err, wire.ErrTooLong) {
				fail = p.tooLong()
			}
		}
		if fail != nil {
			err = n.write(wire.KindFailure, id, fail)
		}
		if err != nil || once {
			return err
		}
	}
}

func dataOf(body wire.EventBody) []byte {
	b, _ := body.Event["data"].([]byte)
	return b
}

// environ returns the environment of a program for an event.
func environ(base []string, body wire.EventBody, socket string) []string {
	c := body.Context
	env := slices.DeleteFunc(base, func(kv string) bool { return strings.HasPrefix(kv, "EDGEFN_") || strings.HasPrefix(kv, "PATH=") })
	set := func(k, v string) {
		// A value with a NUL cannot be passed on.
		env = append(env, k+"="+strings.ReplaceAll(v, "\x00", ""))
	}
	path := os.Getenv("PATH")
	if self, err := os.Executable(); err == nil {
		path = strings.TrimPrefix(path+":"+filepath.Dir(self), ":") // where edgefn-ctl is
	}
	set("PATH", path)
	set("EDGEFN_CTL", socket)
	set("EDGEFN_INVOCATION", c.Invocation)
	set("EDGEFN_FUNCTION", c.Function)
	set("EDGEFN_VERSION", c.Version)
	set("EDGEFN_TRIGGER", c.Trigger)
	set("EDGEFN_ATTEMPT", strconv.Itoa(c.Attempt))
	set("EDGEFN_DEADLINE_MS", strconv.FormatInt(c.DeadlineMS, 10))
	for k, v := range body.Event {
		if s, ok := v.(string); ok {
			set("EDGEFN_EVENT_"+variable(k), s)
		}
	}
	return env
}

// variable returns the name of an attribute as it stands in the environment.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// node is the connection to the node.
type node struct {
	conn  *wire.Conn
	limit atomic.Int64 // bytes of a frame that is sent; set between invocations

	calling sync.Mutex // held from a call until its answer
	running bool       // guarded by calling: an invocation is under way
	calls   uint64
	asked   *wire.Failure // guarded by calling: how the program wants to fail; nil: it is as it exits
}

func (n *node) write(kind wire.Kind, id uint64, body any) error {
	b, err := wire.Encode(kind, id, body)
	if err != nil {
		return err
	}
	if most := n.limit.Load(); int64(len(b)-4) > most {
		return fmt.Errorf("%w: %s of %d bytes with its attributes, at most %d are possible", wire.ErrTooLong, kind, len(b)-4, most)
	}
	return n.conn.WriteEncoded(b)
}

// event waits for the next event.
func (n *node) event() (uint64, wire.EventBody, error) {
	var body wire.EventBody
	f, err := n.conn.Read()
	if err != nil {
		return 0, body, err
	}
	if f.Kind != wire.KindEvent {
		return 0, body, fmt.Errorf("the node sent %s where an event was due", f.Kind)
	}
	if err := f.Into(&body); err != nil {
		return 0, body, err
	}
	n.limit.Store(wire.MaxFrame + wire.Overhead)
	if most := body.Context.MaxFrame; most > 0 {
		n.limit.Store(int64(most))
	}
	n.calling.Lock()
	defer n.calling.Unlock()
	n.running, n.asked = true, nil
	return f.ID, body, nil
}

var errOver = errors.New("no invocation is under way: its program has ended")

// call passes a call on and returns the node's answer.
func (n *node) call(kind wire.Kind, body any) (wire.Frame, error) {
	n.calling.Lock()
	defer n.calling.Unlock()
	if !n.running {
		return wire.Frame{}, errOver
	}
	n.calls++
	if err := n.write(kind, n.calls, body); err != nil {
		return wire.Frame{}, err
	}
	return n.conn.Read()
}

// end refuses further calls, once the one under way has its answer. It returns
// how the program asked to fail, or nil.
func (n *node) end() *wire.Failure {
	n.calling.Lock()
	defer n.calling.Unlock()
	n.running = false
	return n.asked
}
