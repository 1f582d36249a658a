package drivers

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// input is an input line with those who listen to it.
type input struct {
	spec Spec
	log  *slog.Logger

	// change is held while the watch is changed. A watch is stopped under it, and
	// its edges arrive under mu alone, so they never wait for each other.
	change sync.Mutex
	stop   func() // of the watch there is; nil: none
	watch  Watch

	mu        sync.Mutex
	dev       Input // nil: not open
	listeners []*listener
	run       int // which watch it is; edges of an earlier one are not counted any more
	opened    time.Time
	both      bool // it watches both directions
	count     tally
	lost      uint64 // by the kernel, since the line was opened
	gone      uint64 // dropped by listeners that have left
	dead      bool   // the watch has ended by itself: the line was lost
	err       error  // of the last failure
}

// listener is one call of Edges.
type listener struct {
	owner string
	queue edgeQueue     // under input.mu
	more  chan struct{} // one token: there is something in queue
	ended chan struct{} // closed when the line is lost
	err   error         // why; set before ended is closed
}

func newInput(s Spec, log *slog.Logger) *input {
	return &input{spec: s, log: log.With(keyDevice, s.Name)}
}

// on is the logical level of a voltage.
func (s Spec) on(high bool) bool { return high != s.ActiveLow }

// high is the voltage of a logical level.
func (s Spec) high(on bool) bool { return on != s.ActiveLow }

// raw turns edges of the logical level into those of the voltage.
func (s Spec) raw(rising, falling bool) (up, down bool) {
	if s.ActiveLow {
		return falling, rising
	}
	return rising, falling
}

// canListen says whether owner may listen with o beside the others.
func (l *input) canListen(owner string, o EdgeOptions) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, other := range l.listeners {
		if other.owner != owner && other.queue.want.Debounce != o.Debounce {
			return fmt.Errorf("%w: function %q listens to %q with debounce %s, and a line has one: use the same", ErrShared, other.owner, l.spec.Name, other.queue.want.Debounce)
		}
	}
	return nil
}

// listen serves one call of Edges.
func (l *input) listen(ctx context.Context, closing <-chan struct{}, owner string, o EdgeOptions, f func(Edge)) error {
	me := &listener{owner: owner, queue: edgeQueue{want: o}, more: make(chan struct{}, 1), ended: make(chan struct{})}
	if err := l.join(me); err != nil {
		return err
	}
	defer l.leave(me)
	if o.Begun != nil {
		o.Begun()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-closing:
			return ErrClosed
		case <-me.ended:
			return me.err
		case <-me.more:
		}
		for ctx.Err() == nil {
			l.mu.Lock()
			e, ok := me.queue.take()
			l.mu.Unlock()
			if !ok {
				break
			}
			f(e)
		}
	}
}

func (l *input) join(me *listener) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.canListen(me.owner, me.queue.want); err != nil {
		return err
	}
	l.mu.Lock()
	l.listeners = append(l.listeners, me)
	l.mu.Unlock()
	if err := l.rewatch(); err != nil {
		l.remove(me)
		if again := l.rewatch(); again != nil { // for the others, as it was
			l.end(again)
		}
		return err
	}
	return nil
}

func (l *input) leave(me *listener) {
	l.change.Lock()
	defer l.change.Unlock()
	l.remove(me)
	if err := l.rewatch(); err != nil {
		l.end(err)
	}
}

func (l *input) remove(me *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.listeners {
		if o == me {
			l.listeners = append(l.listeners[:i:i], l.listeners[i+1:]...)
			l.gone += me.queue.dropped
			if n := len(me.queue.waiting); n > 0 {
				l.log.Info("a listener has gone; edges that waited for it are lost", "function", me.owner, "edges", n)
			}
			return
		}
	}
}

// rewatch makes the watch what the listeners want, all of them, and the debounce
// that the newest wants: where they differ, they are of one function, whose
// older version is on its way out. The caller holds change.
func (l *input) rewatch() error {
	l.mu.Lock()
	var w Watch
	for _, o := range l.listeners {
		up, down := l.spec.raw(o.queue.want.Rising, o.queue.want.Falling)
		w.Rising, w.Falling, w.Debounce = w.Rising || up, w.Falling || down, o.queue.want.Debounce
	}
	dev, dead := l.dev, l.dead
	l.mu.Unlock()
	if w == l.watch && !dead {
		return nil
	}
	l.unwatch()
	if w == (Watch{}) || dev == nil {
		return nil
	}
	l.mu.Lock()
	l.run++
	run := l.run
	l.opened, l.both, l.count, l.dead = time.Now(), w.Rising && w.Falling, tally{}, false
	l.mu.Unlock()
	stop, err := dev.Watch(w, func(e RawEdge, err error) { l.edge(run, dev.Blind(), e, err) })
	l.mu.Lock()
	if !l.dead { // or it was lost at once
		l.err = err
	}
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("watch line %q: %w", l.spec.Name, err)
	}
	l.stop, l.watch = stop, w
	return nil
}

// unwatch ends the watch. The caller holds change.
func (l *input) unwatch() {
	if l.stop != nil {
		l.stop()
	}
	l.stop, l.watch = nil, Watch{}
}

// edge takes what the watch numbered run saw.
func (l *input) edge(run int, blind bool, raw RawEdge, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if run != l.run {
		return
	}
	if err != nil {
		l.err, l.dead = err, true
		l.log.Warn("line is lost", keyErr, err)
		l.endLocked(err)
		return
	}
	seq, lost := l.count.next(raw, l.both, blind)
	l.lost += lost
	e := Edge{
		On: l.spec.on(raw.Rising), High: raw.Rising, Opened: l.opened,
		Seq: seq, Lost: lost, Blind: blind, Kernel: raw.Kernel, Time: raw.Time,
	}
	for _, o := range l.listeners {
		if o.queue.add(e) {
			select {
			case o.more <- struct{}{}:
			default:
			}
		}
	}
}

// end sends every listener away: the line is lost.
func (l *input) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	l.endLocked(err)
}

func (l *input) endLocked(err error) {
	for _, o := range l.listeners {
		if o.err == nil {
			o.err = fmt.Errorf("line %q: %w", l.spec.Name, err)
			close(o.ended)
		}
	}
}

// read returns the logical level.
func (l *input) read() (bool, error) {
	l.mu.Lock()
	dev := l.dev
	l.mu.Unlock()
	if dev == nil {
		return false, ErrClosed
	}
	high, err := dev.Read()
	if err != nil {
		return false, fmt.Errorf("read line %q: %w", l.spec.Name, err)
	}
	return l.spec.on(high), nil
}

func (l *input) open(d Driver) error {
	dev, err := d.Input(l.spec)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.dev = dev
	l.mu.Unlock()
	return nil
}

// close ends the watch and lets go of the line. Its listeners have been sent
// away, or will be.
func (l *input) close() error {
	l.change.Lock()
	defer l.change.Unlock()
	l.unwatch()
	l.mu.Lock()
	dev := l.dev
	l.dev = nil
	l.run++
	l.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Close()
}

func (l *input) info(i *Info) {
	on, err := l.read()
	l.mu.Lock()
	defer l.mu.Unlock()
	i.Lost = l.lost + l.gone
	for _, o := range l.listeners {
		i.Lost += o.queue.dropped
	}
	if err == nil {
		i.Value, i.Time = onOff(on), time.Now()
		if len(l.listeners) > 0 {
			err = l.err
		}
	}
	i.fault(err)
}
