package periph

import (
	"fmt"
	"sync"

	"github.com/warthog618/go-gpiocdev/uapi"

	"github.com/edgefn/edgefn/drivers"
)

// Input implements drivers.Driver.
func (d *Driver) Input(s drivers.Spec) (drivers.Input, error) {
	p, err := d.find(s.Line)
	if err != nil {
		return nil, err
	}
	if p.pin != nil {
		return newPinInput(s, p.pin)
	}
	i := &input{d: d, spec: s}
	if err := i.take(ask{name: s.Name, flags: bias(s.Pull)}); err != nil {
		return nil, err
	}
	return i, nil
}

// Output implements drivers.Driver.
func (d *Driver) Output(s drivers.Spec, high bool) (drivers.Output, error) {
	p, err := d.find(s.Line)
	if err != nil {
		return nil, err
	}
	if p.pin != nil {
		return newPinOutput(s, p.pin, high)
	}
	o := &output{d: d, spec: s}
	if err := o.take(high); err != nil {
		return nil, err
	}
	return o, nil
}

func bias(p drivers.Pull) uapi.LineFlagV2 {
	switch p {
	case drivers.PullUp:
		return uapi.LineFlagV2Input | uapi.LineFlagV2BiasPullUp
	case drivers.PullDown:
		return uapi.LineFlagV2Input | uapi.LineFlagV2BiasPullDown
	case drivers.PullOff:
		return uapi.LineFlagV2Input | uapi.LineFlagV2BiasDisabled
	}
	return uapi.LineFlagV2Input
}

// input is an input on a character device. It holds the line all the time, so
// that nobody else takes it, but has the kernel look for edges only while they
// are watched.
type input struct {
	d    *Driver
	spec drivers.Spec

	mu     sync.Mutex
	req    *request // nil: the line was lost; taken anew when it is needed
	closed bool
}

// take requests the line. It looks it up again: the chip may have come back
// under another name. The caller holds mu, or is the only one yet.
func (i *input) take(w ask) error {
	p, err := i.d.find(i.spec.Line)
	if err != nil {
		return err
	}
	i.req, err = i.d.request(p, w)
	return err
}

// free lets go of the line. The caller holds mu.
func (i *input) free() {
	if i.req != nil {
		_ = i.req.file.Close()
	}
	i.req = nil
}

func (i *input) Read() (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return false, drivers.ErrClosed
	}
	if i.req == nil {
		if err := i.take(ask{name: i.spec.Name, flags: bias(i.spec.Pull)}); err != nil {
			return false, err
		}
	}
	high, err := i.req.get()
	if err != nil {
		return false, fault(err)
	}
	return high, nil
}

func (i *input) Blind() bool { return false }

func (i *input) Watch(w drivers.Watch, f func(drivers.RawEdge, error)) (func(), error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, drivers.ErrClosed
	}
	flags := bias(i.spec.Pull)
	if w.Rising {
		flags |= uapi.LineFlagV2EdgeRising
	}
	if w.Falling {
		flags |= uapi.LineFlagV2EdgeFalling
	}
	i.free()
	if err := i.take(ask{name: i.spec.Name, flags: flags, debounce: w.Debounce}); err != nil {
		return nil, err
	}
	req, done := i.req, make(chan struct{})
	go func() {
		defer close(done)
		err := req.edges(func(e drivers.RawEdge) { f(e, nil) })
		if err == nil {
			return
		}
		i.mu.Lock()
		if i.req == req {
			i.free()
		}
		i.mu.Unlock()
		f(drivers.RawEdge{}, fault(fmt.Errorf("wait for edges of %s: %w", i.spec.Line, err)))
	}()
	return func() {
		i.mu.Lock()
		if i.req == req {
			i.free()
		}
		i.mu.Unlock()
		<-done
		i.hold()
	}, nil
}

// hold takes the line again after a watch. If that fails, the next Read or Watch
// tells.
func (i *input) hold() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.req != nil {
		return
	}
	if err := i.take(ask{name: i.spec.Name, flags: bias(i.spec.Pull)}); err != nil {
		i.d.log.Warn("line is not held any more", "device", i.spec.Name, "err", err)
	}
}

func (i *input) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.free()
	return nil
}

// output is an output on a character device.
type output struct {
	d    *Driver
	spec drivers.Spec
	req  *request // nil: the line was lost; taken anew by the next Set
}

func (o *output) take(high bool) error {
	p, err := o.d.find(o.spec.Line)
	if err != nil {
		return err
	}
	o.req, err = o.d.request(p, ask{name: o.spec.Name, flags: uapi.LineFlagV2Output, high: high})
	return err
}

// Set drives the line, and takes it anew if it was lost.
func (o *output) Set(high bool) error {
	if o.req != nil {
		if err := o.req.set(high); err == nil {
			return nil
		}
		_ = o.Close() // what take meets tells more
	}
	return o.take(high)
}

func (o *output) Close() error {
	if o.req == nil {
		return nil
	}
	err := o.req.file.Close()
	o.req = nil
	return err
}
