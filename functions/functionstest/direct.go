package functionstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/runtimes"
	"github.com/edgefn/edgefn/functions/runtimes/golang"
	"github.com/edgefn/edgefn/functions/wire"
)

// HostPath is where Direct looks for interpreters: the folders of a sandbox
// with the root "host", and not those of a developer's shell.
const HostPath = "/usr/local/bin:/usr/bin:/bin"

// loadTimeout is how long an instance may take to say hello, on a machine that
// does other things too.
const loadTimeout = time.Minute

// Direct is a Harness that starts instances as processes of the test: what
// runs in a sandbox, with no sandbox around it.
type Direct struct {
	node    Node
	mount   string // what a sandbox has at runtimes.Mount
	sdk     string // the go SDK as a module
	secrets string
}

var _ Harness = (*Direct)(nil)

// NewDirect returns a Direct whose files last until the end of t.
func NewDirect(t *testing.T) *Direct {
	t.Helper()
	d := &Direct{mount: t.TempDir(), sdk: t.TempDir(), secrets: t.TempDir()}
	if err := runtimes.Write(d.mount); err != nil {
		t.Fatal(err)
	}
	if python, err := runtimes.Find(HostPath, "python3"); err == nil {
		if err := runtimes.Compile(t.Context(), d.mount, python); err != nil {
			t.Fatal(err)
		}
	}
	if err := golang.Write(d.sdk); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.secrets, "token"), []byte(Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	initPath := d.inside(runtimes.Init)
	run(t, ".", "go", "build", "-o", initPath, "github.com/edgefn/edgefn/functions/init")
	if err := os.Symlink(initPath, d.inside(runtimes.Ctl)); err != nil {
		t.Fatal(err)
	}
	return d
}

// inside returns where a path of a sandbox is.
func (d *Direct) inside(path string) string {
	if rest, ok := strings.CutPrefix(path, runtimes.Mount+"/"); ok {
		return filepath.Join(d.mount, rest)
	}
	return path
}

func run(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// State implements Harness.
func (d *Direct) State(_ *testing.T, function string) map[string][]byte {
	return d.node.State(function)
}

// SetState implements Harness.
func (d *Direct) SetState(_ *testing.T, function, key string, value []byte) {
	d.node.SetState(function, key, value)
}

// Deploy implements Harness.
func (d *Direct) Deploy(t *testing.T, dir string, f *functions.Function) (Function, *functions.Failure) {
	t.Helper()
	program := functions.GoProgram
	if f.Runtime == functions.Go {
		program = filepath.Join(t.TempDir(), "function")
		if err := d.buildGo(t, dir, f.Handler[0], program); err != nil {
			return nil, &functions.Failure{Kind: functions.FailLoad, Message: err.Error()}
		}
	}
	c, err := runtimes.Launch(f)
	if err != nil {
		t.Fatal(err)
	}
	argv := make([]string, len(c.Argv))
	for i, a := range c.Argv {
		argv[i] = d.inside(a)
	}
	switch {
	case argv[0] == functions.GoProgram:
		argv[0] = program
	case !strings.Contains(argv[0], "/"):
		if argv[0], err = runtimes.Find(HostPath, argv[0]); err != nil {
			t.Skipf("the %s runtime is not here: %v", f.Runtime, err)
		}
	}
	env := []string{"PATH=" + HostPath, "HOME=/tmp", "TMPDIR=" + t.TempDir(), SecretsVar + "=" + d.secrets}
	for k, v := range f.Env {
		env = append(env, k+"="+v)
	}
	fn := &direct{d: d, f: f, dir: dir, argv: argv, env: append(env, c.Env...)}
	t.Cleanup(fn.end)
	return fn, fn.start(t)
}

// buildGo builds a program as a deploy does: with the SDK that is carried.
func (d *Direct) buildGo(t *testing.T, dir, pkg, program string) error {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	mod := filepath.Join(t.TempDir(), "go.mod")
	b = append(b, "\nreplace "+golang.Module+" => "+d.sdk+"\n"...)
	if err := os.WriteFile(mod, b, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-modfile", mod, "-mod=mod", "-o", program, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// direct is a function of a Direct, with at most one process that waits for an
// event.
type direct struct {
	d         *Direct
	f         *functions.Function
	dir       string
	argv, env []string
	p         *process
}

// process is an instance.
type process struct {
	cmd    *exec.Cmd
	socket net.Conn
	conn   *wire.Conn

	mu   sync.Mutex
	logs []Line
}

// start starts an instance and waits for its hello.
func (fn *direct) start(t *testing.T) *functions.Failure {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "node"), os.NewFile(uintptr(fds[1]), "instance")
	defer theirs.Close()
	socket, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{socket: socket, conn: wire.NewConn(socket, wire.MaxFrame+wire.Overhead)}
	p.cmd = &exec.Cmd{
		Path: fn.argv[0], Args: fn.argv, Env: fn.env, Dir: fn.dir, ExtraFiles: []*os.File{theirs},
		Stdout: &lines{p: p, line: Line{Stream: "stdout", Level: "info"}},
		Stderr: &lines{p: p, line: Line{Stream: "stderr", Level: "error"}},
		// What a function leaves running may hold its output open.
		WaitDelay:   time.Second,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := p.cmd.Start(); err != nil {
		_ = socket.Close()
		t.Fatal(err)
	}
	fn.p = p
	_ = socket.SetDeadline(time.Now().Add(loadTimeout))
	for {
		f, err := p.conn.Read()
		if err != nil {
			return functions.Failf(functions.FailLoad, "no hello: %v; %v; %v", err, fn.bury(), p.logs)
		}
		switch f.Kind {
		case wire.KindLog:
			p.log(f)
		case wire.KindHello:
			var h wire.Hello
			if err := errors.Join(f.Into(&h), h.Check()); err != nil {
				t.Fatal(err)
			}
			if name, _, _ := strings.Cut(h.Runtime, " "); name != string(fn.f.Runtime) || h.SDK == "" {
				t.Errorf("hello %+v, want the runtime %s and its version", h, fn.f.Runtime)
			}
			return nil
		case wire.KindFailure:
			var b wire.Failure
			if err := f.Into(&b); err != nil {
				t.Fatal(err)
			}
			_ = fn.bury()
			return &functions.Failure{Kind: functions.FailureKind(b.Kind), Message: b.Message, Detail: b.Detail}
		default:
			t.Fatalf("instance began with %s", f.Kind)
		}
	}
}

func (p *process) log(f wire.Frame) {
	var b wire.Log
	if err := f.Into(&b); err != nil {
		b = wire.Log{Level: "error", Text: "log frame: " + err.Error()}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logs = append(p.logs, Line{"log", b.Level, b.Text})
}

// lines takes what a process writes apart into lines.
type lines struct {
	p    *process
	line Line
	rest []byte
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.line.Text = string(line)
		l.p.logs = append(l.p.logs, l.line)
		l.rest = rest
	}
}

// bury waits for the end of the process, by itself or not, and returns how it
// ended.
func (fn *direct) bury() error {
	p := fn.p
	fn.p = nil
	if p == nil {
		return nil
	}
	kill := time.AfterFunc(loadTimeout, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_ = p.socket.Close()
	err := p.cmd.Wait()
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what it left running
	return err
}

func (fn *direct) end() {
	if fn.p != nil {
		_ = fn.p.cmd.Process.Kill()
		_ = fn.bury()
	}
}

// Invoke implements Function.
func (fn *direct) Invoke(t *testing.T, e functions.Event) Outcome {
	t.Helper()
	if fn.p == nil {
		if f := fn.start(t); f != nil {
			t.Fatalf("it does not load again: %v", f)
		}
	}
	p := fn.p
	inv := fn.d.node.Begin(fn.f)
	_ = p.socket.SetDeadline(time.Now().Add(fn.f.Timeout))
	out := converse(t.Context(), p, inv, fn.f, &e)
	gone := out.Failure != nil && out.Failure.Kind == functions.FailExited
	if gone || fn.f.Isolation == functions.PerInvocation {
		err := fn.bury()
		if gone {
			out.Failure.Message = fmt.Sprintf("the process ended before it gave a result: %v", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out.Logs, p.logs = p.logs, nil
	return out
}

// converse is one invocation on the wire.
func converse(ctx context.Context, p *process, inv *Invocation, f *functions.Function, e *functions.Event) Outcome {
	fail := func(kind functions.FailureKind, format string, args ...any) Outcome {
		return Outcome{Failure: functions.Failf(kind, format, args...)}
	}
	err := p.conn.Write(wire.KindEvent, 1, wire.EventBody{
		Event: wire.EventMap(e),
		Context: wire.Context{
			Invocation: "invocation-1", Function: f.Name, Version: "sha256:0", Trigger: "test", Attempt: 1,
			DeadlineMS: f.Timeout.Milliseconds(),
		},
	})
	for err == nil {
		var frame wire.Frame
		if frame, err = p.conn.Read(); err != nil {
			break
		}
		switch frame.Kind {
		case wire.KindLog:
			p.log(frame)
		case wire.KindResult:
			var b wire.Result
			if err := frame.Into(&b); err != nil || frame.ID != 1 {
				return fail(functions.FailProtocol, "result of %d: %v", frame.ID, err)
			}
			out := Outcome{Result: functions.Result{Data: b.Data, DataContentType: b.DataContentType}}
			out.Committed = inv.Commit()
			return out
		case wire.KindFailure:
			var b wire.Failure
			if err := frame.Into(&b); err != nil || frame.ID != 1 {
				return fail(functions.FailProtocol, "failure of %d: %v", frame.ID, err)
			}
			return Outcome{Failure: b.Outcome()}
		default:
			var c wire.Call
			if err := frame.Into(&c); err != nil {
				return fail(functions.FailProtocol, "%v", err)
			}
			kind, id := wire.KindOK, frame.ID
			reply, callErr := inv.Call(ctx, frame.Kind, c)
			if callErr != nil {
				kind, reply = wire.KindError, wire.Reply{Message: callErr.Error()}
			}
			err = p.conn.Write(kind, id, reply)
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = p.cmd.Process.Kill()
		return fail(functions.FailTimeout, "no result within %v", f.Timeout)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return fail(functions.FailExited, "the process ended before it gave a result")
	}
	return fail(functions.FailProtocol, "%v", err)
}
