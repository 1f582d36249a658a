package periph

import (
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"

	"github.com/edgefn/edgefn/drivers"
)

// Waiting for edges of a pin.
const (
	// slice is how long one wait lasts; between two, it is seen that the watch is to
	// end.
	slice = 200 * time.Millisecond
	// maxInstant is how many waits in a row may return at once. They are paused
	// for 10 ms, 20 ms, ... 1 s, so the pin is given up after about 15 s.
	maxInstant = 20
)

// pinInput is an input that only periph serves. Its edges are those that it
// tells of: how many there were in between cannot be seen.
type pinInput struct {
	spec drivers.Spec
	pin  gpio.PinIO
	mu   sync.Mutex // held while the pin is configured
}

func newPinInput(s drivers.Spec, pin gpio.PinIO) (*pinInput, error) {
	p := &pinInput{spec: s, pin: pin}
	if err := p.configure(gpio.NoEdge); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pinInput) configure(e gpio.Edge) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pull := gpio.PullNoChange
	switch p.spec.Pull {
	case drivers.PullUp:
		pull = gpio.PullUp
	case drivers.PullDown:
		pull = gpio.PullDown
	case drivers.PullOff:
		pull = gpio.Float
	}
	if err := p.pin.In(pull, e); err != nil {
		return fault(fmt.Errorf("take pin %s: %w", p.pin.Name(), err))
	}
	return nil
}

func (p *pinInput) Read() (bool, error) { return bool(p.pin.Read()), nil }

func (p *pinInput) Blind() bool { return true }

func (p *pinInput) Watch(w drivers.Watch, f func(drivers.RawEdge, error)) (func(), error) {
	e := gpio.BothEdges // a debounced line is seen settling from either side
	if w.Debounce == 0 && !w.Falling {
		e = gpio.RisingEdge
	} else if w.Debounce == 0 && !w.Rising {
		e = gpio.FallingEdge
	}
	if err := p.configure(e); err != nil {
		return nil, err
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if err := p.wait(stop, w, e, f); err != nil {
			f(drivers.RawEdge{}, fault(err))
		}
	}()
	return func() {
		close(stop)
		<-done
		_ = p.configure(gpio.NoEdge) // the next Watch tells
	}, nil
}

// wait passes edges on until stop is closed, or until the pin gives up.
func (p *pinInput) wait(stop <-chan struct{}, w drivers.Watch, configured gpio.Edge, f func(drivers.RawEdge, error)) error {
	last := p.pin.Read()
	instant, pause := 0, 10*time.Millisecond
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		before := time.Now()
		if !p.pin.WaitForEdge(slice) {
			if time.Since(before) >= slice/2 {
				instant, pause = 0, 10*time.Millisecond
				continue
			}
			if instant++; instant > maxInstant {
				return fmt.Errorf("wait for edges of pin %s: it returns at once: its chip may be gone", p.pin.Name())
			}
			select {
			case <-stop:
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		instant, pause = 0, 10*time.Millisecond
		kernel, now := monotonic(), time.Now()
		if w.Debounce > 0 && !p.settle(stop, w.Debounce) {
			return nil
		}
		level := p.pin.Read()
		switch configured {
		case gpio.RisingEdge:
			level = gpio.High
		case gpio.FallingEdge:
			level = gpio.Low
		default: // as it is
		}
		if w.Debounce > 0 && level == last {
			continue // it bounced and is where it was
		}
		last = level
		if (level == gpio.High && w.Rising) || (level == gpio.Low && w.Falling) {
			f(drivers.RawEdge{Rising: bool(level), Kernel: kernel, Time: now}, nil)
		}
	}
}

// settle waits until the level has held for the debounce time. It returns false
// when stop is closed.
func (p *pinInput) settle(stop <-chan struct{}, debounce time.Duration) bool {
	for p.pin.WaitForEdge(debounce) {
		select {
		case <-stop:
			return false
		default:
		}
	}
	return true
}

func (p *pinInput) Close() error { return p.pin.Halt() }

// pinOutput is an output that only periph serves.
type pinOutput struct{ pin gpio.PinIO }

func newPinOutput(_ drivers.Spec, pin gpio.PinIO, high bool) (*pinOutput, error) {
	o := &pinOutput{pin}
	if err := o.Set(high); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *pinOutput) Set(high bool) error {
	if err := o.pin.Out(gpio.Level(high)); err != nil {
		return fault(fmt.Errorf("drive pin %s: %w", o.pin.Name(), err))
	}
	return nil
}

func (o *pinOutput) Close() error { return o.pin.Halt() }
