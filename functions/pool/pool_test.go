package pool_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/functions/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// behaviour is what the program of a fake instance does; conn is its wire.
type behaviour func(conn *wire.Conn, n int)

// echo answers events with their data and the number of its process.
func echo(conn *wire.Conn, n int) {
	if conn.Write(wire.KindHello, 0, wire.Hello{V: wire.Version}) != nil {
		return
	}
	for {
		f, err := conn.Read()
		if err != nil {
			return
		}
		var b wire.EventBody
		if f.Into(&b) != nil {
			return
		}
		data, _ := b.Event["data"].([]byte)
		if conn.Write(wire.KindResult, f.ID, wire.Result{Data: append(data, byte('0'+n))}) != nil {
			return
		}
	}
}

// fake is a Starter of sandboxes whose instances are goroutines.
type fake struct {
	run behaviour

	mu        sync.Mutex
	openErr   error
	opened    int
	closed    int
	started   int
	sandboxes []*fakeSandbox
}

type fakeSandbox struct {
	f    *fake
	once sync.Once
	done chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	in   []*fakeInstance
}

type fakeInstance struct {
	socket, stdout, stderr *os.File
	theirs                 *os.File
	once                   sync.Once
	exited                 chan struct{}
}

func (f *fake) Open(context.Context) (pool.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openErr != nil {
		return nil, f.openErr
	}
	f.opened++
	s := &fakeSandbox{f: f, done: make(chan struct{})}
	f.sandboxes = append(f.sandboxes, s)
	return s, nil
}

func (s *fakeSandbox) Start(context.Context, int) (pool.Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return nil, errors.New("sandbox is gone")
	default:
	}
	s.f.mu.Lock()
	s.f.started++
	n := s.f.started
	s.f.mu.Unlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	in := &fakeInstance{socket: os.NewFile(uintptr(fds[0]), "a"), theirs: os.NewFile(uintptr(fds[1]), "b"), exited: make(chan struct{})}
	var ends []*os.File
	for _, f := range []**os.File{&in.stdout, &in.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*f = r
		ends = append(ends, w)
	}
	s.in = append(s.in, in)
	s.wg.Go(func() {
		s.f.run(wire.NewConn(in.theirs, wire.MaxFrame), n)
		for _, w := range ends {
			_ = w.Close()
		}
		in.Kill()
	})
	return in, nil
}

func (s *fakeSandbox) Done() <-chan struct{} { return s.done }

func (s *fakeSandbox) crash() {
	s.once.Do(func() {
		close(s.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, in := range s.in {
			in.Kill()
		}
	})
}

func (s *fakeSandbox) Close(context.Context) error {
	s.crash()
	s.wg.Wait()
	s.f.mu.Lock()
	s.f.closed++
	s.f.mu.Unlock()
	return nil
}

func (in *fakeInstance) Socket() *os.File { return in.socket }
func (in *fakeInstance) Stdout() *os.File { return in.stdout }
func (in *fakeInstance) Stderr() *os.File { return in.stderr }
func (in *fakeInstance) Usage() (time.Duration, int64) {
	return time.Millisecond, 1 << 20
}

func (in *fakeInstance) Kill() {
	in.once.Do(func() {
		_ = in.theirs.Close()
		close(in.exited)
	})
}
func (in *fakeInstance) Exited() <-chan struct{} { return in.exited }
func (in *fakeInstance) Exit() pool.Exit         { return pool.Exit{Code: 3} }

func start(t *testing.T, f *fake, change func(*functions.Function)) *pool.Pool {
	t.Helper()
	fn := functions.Defaults()
	fn.Name = "f"
	if change != nil {
		change(&fn)
	}
	p, err := pool.New(pool.Config{Function: &fn, Version: "v", Starter: f})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func invoke(p *pool.Pool, data string) (pool.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.Invoke(ctx, pool.Invocation{ID: "i", Event: functions.Event{Data: []byte(data)}})
}

func wantKind(t *testing.T, err error, kind functions.FailureKind) {
	t.Helper()
	var f *functions.Failure
	if !errors.As(err, &f) || f.Kind != kind {
		t.Errorf("got error %v, want a failure of kind %s", err, kind)
	}
}

func TestEachEventHasAProcessOfItsOwn(t *testing.T) {
	p := start(t, &fake{run: echo}, nil)
	seen := map[string]bool{}
	for range 9 {
		out, err := invoke(p, "x")
		if err != nil {
			t.Fatal(err)
		}
		<-out.Logged
		if got := string(out.Result.Data); seen[got] {
			t.Errorf("process %s served two events", got)
		} else {
			seen[got] = true
		}
	}
}

func TestIsolationInstanceReusesAProcess(t *testing.T) {
	p := start(t, &fake{run: echo}, func(f *functions.Function) { f.Isolation, f.Scale.Max = functions.PerInstance, 1 })
	for range 5 {
		out, err := invoke(p, "x")
		if err != nil || string(out.Result.Data) != "x1" {
			t.Fatalf("got %q, %v, want x1", out.Result.Data, err)
		}
	}
}

func TestColdAndWarm(t *testing.T) {
	waits := make(chan struct{})
	p := start(t, &fake{run: func(c *wire.Conn, n int) {
		<-waits
		echo(c, n)
	}}, nil)
	go func() {
		defer close(waits)
		for end := time.Now().Add(20 * time.Second); p.Stats().Queued == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}()
	out, err := invoke(p, "x") // before an instance is ready
	if err != nil || !out.Usage.Cold {
		t.Fatalf("first event: cold %v, %v, want cold", out.Usage.Cold, err)
	}
	if err := p.Check(t.Context()); err != nil { // a spare is there
		t.Fatal(err)
	}
	out, err = invoke(p, "x")
	if err != nil || out.Usage.Cold {
		t.Fatalf("event with a spare: cold %v, %v, want warm", out.Usage.Cold, err)
	}
}

func TestLoadFailureIsTold(t *testing.T) {
	p := start(t, &fake{run: func(c *wire.Conn, _ int) {
		_ = c.Write(wire.KindFailure, 0, wire.Failure{Kind: "load", Message: "no module named x", Detail: "trace"})
	}}, nil)
	err := p.Check(t.Context())
	wantKind(t, err, functions.FailLoad)
	_, err = invoke(p, "x")
	wantKind(t, err, functions.FailLoad)
}

func TestBadInstances(t *testing.T) {
	hello := func(c *wire.Conn) { _ = c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version}) }
	tests := []struct {
		name string
		run  behaviour
		want functions.FailureKind
	}{
		{"other version", func(c *wire.Conn, _ int) { _ = c.Write(wire.KindHello, 0, wire.Hello{V: 99}) }, functions.FailProtocol},
		{"ends before hello", func(*wire.Conn, int) {}, functions.FailLoad},
		{"ends at the event", func(c *wire.Conn, _ int) { hello(c); _, _ = c.Read() }, functions.FailExited},
		{"out of turn", func(c *wire.Conn, _ int) {
			hello(c)
			_, _ = c.Read()
			_ = c.Write(wire.KindOK, 1, wire.Reply{})
			_, _ = c.Read()
		}, functions.FailProtocol},
		{"result of another event", func(c *wire.Conn, _ int) {
			hello(c)
			_, _ = c.Read()
			_ = c.Write(wire.KindResult, 2, wire.Result{})
			_, _ = c.Read()
		}, functions.FailProtocol},
		{"raises", func(c *wire.Conn, _ int) {
			hello(c)
			f, _ := c.Read()
			_ = c.Write(wire.KindFailure, f.ID, wire.Failure{Kind: "raised", Message: "no"})
		}, functions.FailRaised},
		{"rejects", func(c *wire.Conn, _ int) {
			hello(c)
			f, _ := c.Read()
			_ = c.Write(wire.KindFailure, f.ID, wire.Failure{Kind: "rejected", Message: "no", RetryAfterMS: 30000})
		}, functions.FailRejected},
		{"a kind that is not its own to tell", func(c *wire.Conn, _ int) {
			hello(c)
			f, _ := c.Read()
			_ = c.Write(wire.KindFailure, f.ID, wire.Failure{Kind: "payload", Message: "no"})
		}, functions.FailRaised},
		{"silent", func(c *wire.Conn, _ int) { hello(c); _, _ = c.Read(); _, _ = c.Read() }, functions.FailTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, &fake{run: tt.run}, func(f *functions.Function) { f.Timeout = 200 * time.Millisecond })
			_, err := invoke(p, "x")
			wantKind(t, err, tt.want)
		})
	}
}

// hostFunc is a Host by a function.
type hostFunc func(wire.Kind, wire.Call) (wire.Reply, error)

func (f hostFunc) Call(_ context.Context, kind wire.Kind, c wire.Call) (wire.Reply, error) {
	return f(kind, c)
}

// Whatever a function may ask for goes to the host, and its answer comes back.
func TestCalls(t *testing.T) {
	calls := []struct {
		kind  wire.Kind
		call  wire.Call
		reply wire.Reply
	}{
		{wire.KindGet, wire.Call{Key: "k"}, wire.Reply{Found: true, Value: []byte("v")}},
		{wire.KindList, wire.Call{Prefix: "p"}, wire.Reply{Keys: []string{"p/1"}}},
		{wire.KindPut, wire.Call{Key: "k", Value: []byte("v")}, wire.Reply{}},
		{wire.KindDelete, wire.Call{Key: "k"}, wire.Reply{}},
		{wire.KindPublish, wire.Call{Topic: "t", QoS: 1}, wire.Reply{}},
		{wire.KindInvoke, wire.Call{Function: "sink"}, wire.Reply{ID: "1"}},
		{wire.KindSetLine, wire.Call{Device: "relay", On: true}, wire.Reply{}},
		{wire.KindPulseLine, wire.Call{Device: "relay", MS: 200}, wire.Reply{}},
		{wire.KindReleaseLine, wire.Call{Device: "relay"}, wire.Reply{}},
		{wire.KindReadLine, wire.Call{Device: "door"}, wire.Reply{On: true}},
		{wire.KindReadSensor, wire.Call{Device: "greenhouse"}, wire.Reply{Value: []byte(`{"temperature_C":25.1}`)}},
	}
	for _, tt := range calls {
		for _, refusal := range []string{"", "device is not granted"} {
			t.Run(string(tt.kind)+" "+refusal, func(t *testing.T) {
				type frame struct {
					Kind  wire.Kind
					Reply wire.Reply
				}
				answers := make(chan frame, 1)
				p := start(t, &fake{run: func(c *wire.Conn, _ int) {
					_ = c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version})
					e, err := c.Read()
					if err != nil {
						return
					}
					_ = c.Write(tt.kind, 7, tt.call)
					var answer frame
					f, err := c.Read()
					if errors.Join(err, f.Into(&answer.Reply)) == nil && f.ID == 7 {
						answer.Kind = f.Kind
					}
					answers <- answer
					_ = c.Write(wire.KindResult, e.ID, wire.Result{})
				}}, nil)
				want := frame{wire.KindOK, tt.reply}
				if refusal != "" {
					want = frame{wire.KindError, wire.Reply{Message: refusal}}
				}
				var kind wire.Kind
				var call wire.Call
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := p.Invoke(ctx, pool.Invocation{Host: hostFunc(func(k wire.Kind, c wire.Call) (wire.Reply, error) {
					kind, call = k, c
					if refusal != "" {
						return wire.Reply{}, errors.New(refusal)
					}
					return tt.reply, nil
				})})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, <-answers); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.call, call); diff != "" || kind != tt.kind {
					t.Errorf("the host was asked %s (-want +got):\n%s", kind, diff)
				}
			})
		}
	}
}

// A program that was built by an edgefn of the version before runs on.
func TestVersions(t *testing.T) {
	for v, ok := range map[uint]bool{0: false, 1: true, 2: true, 3: false} {
		p := start(t, &fake{run: func(c *wire.Conn, _ int) {
			_ = c.Write(wire.KindHello, 0, wire.Hello{V: v})
			if f, err := c.Read(); err == nil {
				_ = c.Write(wire.KindResult, f.ID, wire.Result{})
			}
		}}, nil)
		_, err := invoke(p, "x")
		if ok {
			if err != nil {
				t.Errorf("version %d: %v", v, err)
			}
			continue
		}
		wantKind(t, err, functions.FailProtocol)
		if err == nil || !strings.Contains(err.Error(), "build the function again") {
			t.Errorf("version %d: %v, want an error that says what to do", v, err)
		}
	}
}

func TestFullQueue(t *testing.T) {
	release := make(chan struct{})
	p := start(t, &fake{run: func(c *wire.Conn, n int) {
		_ = c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version})
		f, err := c.Read()
		if err == nil {
			<-release
			_ = c.Write(wire.KindResult, f.ID, wire.Result{})
		}
	}}, func(f *functions.Function) { f.Scale.Max, f.Scale.Queue = 1, 2 })
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := invoke(p, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	for p.Stats().Busy+p.Stats().Queued < 3 {
		time.Sleep(time.Millisecond)
	}
	if _, err := p.Invoke(t.Context(), pool.Invocation{NoWait: true}); !errors.Is(err, pool.ErrOverloaded) {
		t.Errorf("a further event gave %v, want ErrOverloaded", err)
	}
	close(release)
	wg.Wait()
	if err := p.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := invoke(p, "x"); !errors.Is(err, pool.ErrClosed) {
		t.Errorf("after Drain: %v, want ErrClosed", err)
	}
}

func TestCallerThatGivesUp(t *testing.T) {
	p := start(t, &fake{run: func(c *wire.Conn, _ int) {
		_ = c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version})
		_, _ = c.Read()
		_, _ = c.Read()
	}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Invoke(ctx, pool.Invocation{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the caller's own deadline", err)
	}
}

func TestSandboxThatDiesIsReplaced(t *testing.T) {
	f := &fake{run: echo}
	p := start(t, f, nil)
	if _, err := invoke(p, "x"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	s := f.sandboxes[0]
	f.mu.Unlock()
	s.crash()
	var err error
	for range 50 { // an event at the wrong moment fails, by whether an instance had it; the node tries again
		if _, err = invoke(p, "x"); err == nil {
			break
		}
		var f *functions.Failure
		if !errors.As(err, &f) || (f.Kind != functions.FailLost && f.Kind != functions.FailTransient) {
			t.Fatalf("got error %v, want one of a sandbox that went away", err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened != 2 || f.closed != 1 {
		t.Errorf("%d sandboxes opened, %d closed, want 2 and 1", f.opened, f.closed)
	}
}

func TestNoSandbox(t *testing.T) {
	f := &fake{run: echo, openErr: errors.New("no containerd")}
	p := start(t, f, nil)
	_, err := invoke(p, "x")
	wantKind(t, err, functions.FailTransient)
	f.mu.Lock()
	f.openErr = nil
	f.mu.Unlock()
	if _, err := invoke(p, "x"); err != nil {
		t.Error(err)
	}
}

func TestIdleFunctionCostsNothing(t *testing.T) {
	f := &fake{run: echo}
	p := start(t, f, func(fn *functions.Function) { fn.Scale.Idle = 10 * time.Millisecond })
	if _, err := invoke(p, "x"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		closed := f.closed
		f.mu.Unlock()
		if closed == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("sandbox is still up: %+v", p.Stats())
		}
	}
	if _, err := invoke(p, "x"); err != nil { // and comes back
		t.Error(err)
	}
}

// An event that expires while it waits for an instance is given to none, and the
// instance is there for the next one.
func TestExpiredWhileItWaits(t *testing.T) {
	release := make(chan struct{})
	p := start(t, &fake{run: func(c *wire.Conn, _ int) {
		if c.Write(wire.KindHello, 0, wire.Hello{V: wire.Version}) != nil {
			return
		}
		if f, err := c.Read(); err == nil {
			<-release
			_ = c.Write(wire.KindResult, f.ID, wire.Result{Data: []byte("done")})
		}
	}}, func(f *functions.Function) { f.Scale.Max, f.Timeout = 1, 20*time.Second })
	type outcome struct {
		data string
		err  error
	}
	send := func(expires time.Time) <-chan outcome {
		c := make(chan outcome, 1)
		queued := p.Stats().Queued + p.Stats().Busy
		go func() {
			out, err := p.Invoke(context.Background(), pool.Invocation{ID: "i", Expires: expires})
			c <- outcome{string(out.Result.Data), err}
		}()
		for p.Stats().Queued+p.Stats().Busy == queued {
			time.Sleep(time.Millisecond)
		}
		return c
	}
	soon := time.Now().Add(50 * time.Millisecond)
	first, second, third := send(time.Time{}), send(soon), send(time.Now().Add(time.Hour))
	time.Sleep(time.Until(soon))
	close(release)
	for _, tt := range []struct {
		name string
		c    <-chan outcome
		want outcome
	}{
		{"that runs", first, outcome{data: "done"}}, {"that has expired", second, outcome{err: pool.ErrExpired}}, {"behind it", third, outcome{data: "done"}},
	} {
		if got := <-tt.c; got.data != tt.want.data || !errors.Is(got.err, tt.want.err) {
			t.Errorf("the event %s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Invoke(t.Context(), pool.Invocation{ID: "i", Expires: time.Now()}); !errors.Is(err, pool.ErrExpired) {
		t.Errorf("an event that had expired before: %v, want %v", err, pool.ErrExpired)
	}
}
