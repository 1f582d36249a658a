package pool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// maxLine is the longest line of output that is logged as one.
const maxLine = 16 << 10

// worker is one instance and the goroutine that speaks to it.
type worker struct {
	p       *Pool
	slot    int
	sandbox Sandbox
	in      Instance
	conn    *wire.Conn
	work    chan *request // holds one; closed: end
	readyAt time.Time
	output  sync.WaitGroup         // readers of stdout and stderr
	now     atomic.Pointer[string] // id of the invocation that output belongs to
}

// run starts the instance, serves it events and buries it.
func (w *worker) run(ctx context.Context) {
	if !w.start(ctx) {
		return
	}
	for w.serveOne(ctx) {
	}
}

// start starts the instance and waits for its hello. It accounts for a failure.
func (w *worker) start(ctx context.Context) bool {
	in, err := w.sandbox.Start(ctx, w.slot)
	if err != nil {
		gone := false
		select {
		case <-w.sandbox.Done():
			gone = true
		default:
		}
		w.release(false)
		if gone {
			w.p.lost(ctx, w.sandbox)
		}
		w.p.startFailed(functions.Failf(functions.FailTransient, "%v", err), gone)
		return false
	}
	w.in, w.conn = in, wire.NewConn(in.Socket(), w.p.cfg.MaxFrame+wire.Overhead)
	id := ""
	w.now.Store(&id)
	w.output.Add(2)
	go w.read(in.Stdout(), "stdout", "info")
	go w.read(in.Stderr(), "stderr", "error")
	stop := context.AfterFunc(ctx, in.Kill)
	defer stop()
	if f := w.hello(); f != nil {
		w.bury(ctx, false)
		w.p.startFailed(f, false)
		return false
	}
	w.readyAt = time.Now()
	w.p.started(w)
	return true
}

// hello waits until the handler is loaded.
func (w *worker) hello() *functions.Failure {
	_ = w.in.Socket().SetDeadline(time.Now().Add(loadTimeout))
	for {
		f, err := w.conn.Read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return functions.Failf(functions.FailLoad, "the handler was not loaded within %v", loadTimeout)
		case err != nil:
			return w.ended(functions.FailLoad, err, "before its handler was loaded")
		case f.Kind == wire.KindLog:
			if pf := w.log(f); pf != nil {
				return pf
			}
			continue
		case f.Kind == wire.KindFailure:
			var b wire.Failure
			if err := f.Into(&b); err != nil {
				return functions.Failf(functions.FailProtocol, "%v", err)
			}
			return &functions.Failure{Kind: functions.FailLoad, Message: b.Message, Detail: b.Detail}
		case f.Kind != wire.KindHello:
			return functions.Failf(functions.FailProtocol, "instance began with a %q frame, not with hello", f.Kind)
		}
		var h wire.Hello
		if err := f.Into(&h); err != nil {
			return functions.Failf(functions.FailProtocol, "%v", err)
		}
		if err := h.Check(); err != nil {
			return functions.Failf(functions.FailProtocol, "%v", err)
		}
		_ = w.in.Socket().SetDeadline(time.Time{})
		return nil
	}
}

// serveOne waits for an event and handles it. It reports whether the instance
// may serve another one; if not, it is buried.
func (w *worker) serveOne(ctx context.Context) bool {
	var r *request
	select {
	case r = <-w.work: // nil: closed, let go
	case <-w.in.Exited():
		if w.p.unspare(w) {
			w.bury(ctx, false)
			w.died(ctx)
			return false
		}
		r = <-w.work
	}
	if r == nil {
		w.in.Kill()
		w.bury(ctx, false)
		return false
	}
	logged := make(chan struct{})
	a, healthy := w.handle(ctx, r)
	a.out.Logged = logged
	again := healthy && w.p.cfg.Function.Isolation == functions.PerInstance
	if again {
		close(logged) // the SDK has flushed; what its reader still holds follows at once
	}
	w.p.served(w, again) // before the answer, so that the caller's next event finds it
	r.done <- a
	if again {
		return true
	}
	w.in.Kill()
	w.bury(ctx, true)
	close(logged)
	return false
}

// died accounts for a spare that ended by itself.
func (w *worker) died(ctx context.Context) {
	select {
	case <-w.sandbox.Done():
		w.p.lost(ctx, w.sandbox)
	default:
		w.p.startFailed(w.ended(functions.FailExited, io.EOF, "while it waited for an event"), false)
	}
}

// handle runs one event.
func (w *worker) handle(ctx context.Context, r *request) (answer, bool) {
	fn, inv := w.p.cfg.Function, &r.inv
	w.now.Store(&inv.ID)
	cpu0, _ := w.in.Usage()
	begin := time.Now()
	if inv.Begun != nil {
		inv.Begun()
	}
	deadline := begin.Add(fn.Timeout)
	_ = w.in.Socket().SetDeadline(deadline)
	interrupt := func() { _ = w.in.Socket().SetDeadline(time.Unix(1, 0)) }
	stop1, stop2 := context.AfterFunc(ctx, interrupt), context.AfterFunc(r.ctx, interrupt) //nolint:contextcheck // two that may each end it
	res, fail := w.converse(r, deadline)                                                   //nolint:contextcheck // the event has a context of its own
	stop1()
	stop2()
	usage := functions.Usage{Wall: time.Since(begin), Cold: w.readyAt.After(r.arrived)}
	cpu, peak := w.in.Usage()
	usage.CPU, usage.PeakMemory = cpu-cpu0, peak
	a := answer{out: Outcome{Result: res, Usage: usage}}
	if fail == nil {
		_ = w.in.Socket().SetDeadline(time.Time{})
		return a, true
	}
	a.err = fail
	healthy := fail.Kind == functions.FailRaised || fail.Kind == functions.FailRejected || fail.Kind == functions.FailResult
	if fail.Kind == functions.FailTimeout && time.Now().Before(deadline) {
		switch { // it was interrupted, not slow
		case ctx.Err() != nil:
			a.err = ErrClosed
		case r.ctx.Err() != nil:
			a.err = r.ctx.Err()
		}
	}
	if healthy {
		_ = w.in.Socket().SetDeadline(time.Time{})
	}
	return a, healthy
}

// converse sends the event and answers calls until the result comes.
func (w *worker) converse(r *request, deadline time.Time) (functions.Result, *functions.Failure) {
	var none functions.Result
	fn, inv := w.p.cfg.Function, &r.inv
	body := wire.EventBody{
		Event: wire.EventMap(&inv.Event),
		Context: wire.Context{
			Invocation: inv.ID, Function: fn.Name, Version: w.p.cfg.Version, Trigger: inv.Trigger,
			Attempt: inv.Attempt, DeadlineMS: time.Until(deadline).Milliseconds(), MaxFrame: w.p.cfg.MaxFrame + wire.Overhead,
		},
	}
	if err := w.conn.Write(wire.KindEvent, 1, body); err != nil {
		return none, w.broken(err)
	}
	ctx, cancel := context.WithDeadline(r.ctx, deadline) // for the node's side of a call
	defer cancel()
	for {
		f, err := w.conn.Read()
		if err != nil {
			return none, w.broken(err)
		}
		switch f.Kind {
		case wire.KindLog:
			if pf := w.log(f); pf != nil {
				return none, pf
			}
		case wire.KindGet, wire.KindList, wire.KindPut, wire.KindDelete, wire.KindPublish, wire.KindInvoke,
			wire.KindSetLine, wire.KindPulseLine, wire.KindReleaseLine, wire.KindReadLine, wire.KindReadSensor:
			if pf := w.call(ctx, r, f); pf != nil {
				return none, pf
			}
		case wire.KindResult:
			var b wire.Result
			if err := f.Into(&b); err != nil {
				return none, functions.Failf(functions.FailProtocol, "%v", err)
			}
			if f.ID != 1 {
				return none, functions.Failf(functions.FailProtocol, "result is for event %d, not 1", f.ID)
			}
			return functions.Result{Data: b.Data, DataContentType: b.DataContentType}, nil
		case wire.KindFailure:
			return none, failureOf(f)
		case wire.KindHello, wire.KindEvent, wire.KindOK, wire.KindError:
			fallthrough
		default:
			return none, functions.Failf(functions.FailProtocol, "instance sent a %q frame out of turn", f.Kind)
		}
	}
}

func failureOf(f wire.Frame) *functions.Failure {
	var b wire.Failure
	if err := f.Into(&b); err != nil {
		return functions.Failf(functions.FailProtocol, "%v", err)
	}
	return b.Outcome()
}

func (w *worker) call(ctx context.Context, r *request, f wire.Frame) *functions.Failure {
	var c wire.Call
	if err := f.Into(&c); err != nil {
		return functions.Failf(functions.FailProtocol, "%v", err)
	}
	kind := wire.KindOK
	reply, err := r.inv.Host.Call(ctx, f.Kind, c)
	if err != nil {
		kind, reply = wire.KindError, wire.Reply{Message: err.Error()}
	}
	if err := w.conn.Write(kind, f.ID, reply); err != nil {
		return w.broken(err)
	}
	return nil
}

func (w *worker) log(f wire.Frame) *functions.Failure {
	var b wire.Log
	if err := f.Into(&b); err != nil {
		return functions.Failf(functions.FailProtocol, "%v", err)
	}
	switch b.Level {
	case "debug", "info", "warning", "error":
	default:
		b.Level = "info"
	}
	w.p.cfg.Log(LogLine{Time: time.Now(), Level: b.Level, Invocation: *w.now.Load(), Stream: "log", Text: b.Text})
	return nil
}

// broken says why the wire broke in the middle of an invocation.
func (w *worker) broken(err error) *functions.Failure {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return functions.Failf(functions.FailTimeout, "no result within the timeout of %v", w.p.cfg.Function.Timeout)
	case errors.Is(err, wire.ErrTooLong):
		return functions.Failf(functions.FailResult, "result or call is too large: %v", err)
	case errors.Is(err, wire.ErrFrame):
		return functions.Failf(functions.FailProtocol, "%v", err)
	}
	f := w.ended(functions.FailExited, err, "before it gave a result")
	if f.Kind == functions.FailTransient {
		f.Kind = functions.FailLost // the event may be what it died of
	}
	return f
}

// ended says how the process ended, of which its closed socket was the sign.
func (w *worker) ended(kind functions.FailureKind, err error, when string) *functions.Failure {
	t := time.NewTimer(buryTimeout)
	defer t.Stop()
	// A process that only closed its socket is not worth waiting for.
	closed := time.NewTimer(time.Second)
	defer closed.Stop()
	select {
	case <-w.in.Exited():
	case <-closed.C:
		w.in.Kill()
		select {
		case <-w.in.Exited():
		case <-t.C:
		}
		return functions.Failf(functions.FailProtocol, "the process closed its socket %s: %v", when, err)
	}
	select {
	case <-w.sandbox.Done():
		return functions.Failf(functions.FailTransient, "its sandbox went away %s", when)
	default:
	}
	switch e := w.in.Exit(); {
	case e.OOM:
		return functions.Failf(functions.FailMemory, "the process was killed %s: it needed more than its %d MiB of memory", when, w.p.cfg.Function.Memory>>20)
	case e.Signal != 0:
		return functions.Failf(kind, "the process was ended by signal %d %s", e.Signal, when)
	default:
		return functions.Failf(kind, "the process exited with status %d %s", e.Code, when)
	}
}

// bury waits until nothing of the instance is left and frees its slot.
func (w *worker) bury(ctx context.Context, served bool) {
	w.in.Kill()
	t := time.NewTimer(buryTimeout)
	defer t.Stop()
	select {
	case <-w.in.Exited():
	case <-t.C:
		// It cannot be killed (stuck in the kernel): its sandbox is given up.
		w.p.lost(ctx, w.sandbox)
	}
	_ = w.in.Socket().Close()
	// All that it wrote is in its pipes by now. Somebody else who holds the
	// other end must not hold the slot.
	end := time.Now().Add(time.Second)
	_, _ = w.in.Stdout().SetReadDeadline(end), w.in.Stderr().SetReadDeadline(end)
	w.output.Wait()
	w.release(served || !w.readyAt.IsZero())
}

// release frees the slot.
func (w *worker) release(wasReady bool) {
	w.p.mu.Lock()
	if !wasReady {
		w.p.starting--
	}
	w.p.free = append(w.p.free, w.slot)
	w.p.mu.Unlock()
	w.p.wake()
}

// read logs what the instance writes, line by line.
func (w *worker) read(f *os.File, stream, level string) {
	defer w.output.Done()
	defer f.Close() //nolint:errcheck // only read from
	br := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			text := string(line)
			if text[len(text)-1] == '\n' {
				text = text[:len(text)-1]
			}
			w.p.cfg.Log(LogLine{Time: time.Now(), Level: level, Invocation: *w.now.Load(), Stream: stream, Text: text})
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// String names the worker for messages.
func (w *worker) String() string { return fmt.Sprintf("slot %d", w.slot) }
