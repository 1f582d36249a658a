package drivers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Keys of log records.
const (
	keyDevice = "device"
	keyErr    = "err"
)

// Config is what Devices are made of.
type Config struct {
	Specs  []Spec
	Driver Driver       // closed by Devices; not touched where there are no Specs, but by Discover and Bus
	Logger *slog.Logger // nil discards
}

// Devices are all of a node's. Its methods are safe for concurrent use. They
// block only where they say so.
type Devices struct {
	cfg Config
	log *slog.Logger

	inputs  map[string]*input
	outputs map[string]*output
	sensors map[string]*sensor

	lease sync.Mutex // held over Hold, so that what is admitted is held

	closing chan struct{} // closed when the devices close

	mu    sync.Mutex
	state state
	wg    sync.WaitGroup    // goroutines of sensors; added to under mu while open
	found map[string]string // by device: what Driver.Find said of its line
}

type state int

const (
	stateNew state = iota
	stateOpen
	stateClosed
)

// New makes the devices of a config. It touches no hardware. The error has all
// faults of the config, each with its place in front.
func New(cfg Config) (*Devices, error) {
	if err := Validate(cfg.Specs); err != nil {
		return nil, err
	}
	if cfg.Driver == nil {
		return nil, errors.New("devices have no driver")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Devices{
		cfg: cfg, log: cfg.Logger.With("component", "devices"), closing: make(chan struct{}),
		inputs: map[string]*input{}, outputs: map[string]*output{}, sensors: map[string]*sensor{}, found: map[string]string{},
	}
	for _, s := range cfg.Specs {
		switch {
		case s.Sensor != "":
			t, _ := TypeOf(s)
			d.sensors[s.Name] = newSensor(s, t, d.log)
		case s.Direction == Out:
			d.outputs[s.Name] = newOutput(s, d.log)
		default:
			d.inputs[s.Name] = newInput(s, d.log)
		}
	}
	return d, nil
}

// Open takes every line, outputs at their initial level, and finds every bus.
// The error has all faults, each with its place in front; then nothing is held.
// A sensor that does not answer is none. Run, or else Close, must follow.
func (d *Devices) Open(ctx context.Context) error {
	d.mu.Lock()
	if d.state != stateNew {
		d.mu.Unlock()
		return errors.New("devices were opened before; make new ones")
	}
	d.state = stateOpen
	d.mu.Unlock()
	if err := d.open(ctx); err != nil {
		_ = d.Close() // what was opened before the fault
		return err
	}
	return nil
}

func (d *Devices) open(ctx context.Context) error {
	var faults []error
	found, err := find(d.cfg.Specs, d.cfg.Driver)
	if err != nil {
		faults = append(faults, err)
	}
	d.mu.Lock()
	maps.Copy(d.found, found)
	d.mu.Unlock()
	for _, s := range d.cfg.Specs {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if x, ok := d.sensors[s.Name]; ok {
			err = x.open(d.cfg.Driver)
		} else if _, ok := found[s.Name]; !ok {
			continue // told above
		} else if x, ok := d.outputs[s.Name]; ok {
			err = x.open(d.cfg.Driver)
		} else if x, ok := d.inputs[s.Name]; ok {
			err = x.open(d.cfg.Driver)
		}
		if err != nil {
			faults = append(faults, s.fault(err))
		}
	}
	return errors.Join(faults...)
}

// find finds every line of specs, by device. A line that has two names is a
// fault of the second one.
func find(specs []Spec, driver Driver) (map[string]string, error) {
	var faults []error
	found, names := map[string]string{}, map[string]string{}
	for _, s := range specs {
		if s.Line == "" {
			continue
		}
		line, err := driver.Find(s)
		if err != nil {
			faults = append(faults, s.fault(err))
			continue
		}
		if other, ok := names[line]; ok {
			faults = append(faults, s.fault(fmt.Errorf("%s is %s, and that has a name already: %q: remove one", s.Line, line, other)))
			continue
		}
		found[s.Name], names[line] = line, s.Name
	}
	return found, errors.Join(faults...)
}

// Run reads each sensor once, so that it is known how they are, and blocks until
// ctx is done. Then it closes the devices as Close does. It returns nil, or what
// Close met.
func (d *Devices) Run(ctx context.Context) error {
	for _, s := range d.sensors {
		d.start(func() { _, _ = s.read(ctx, d.start, s.young) }) // what came of it is in s
	}
	<-ctx.Done()
	return d.Close()
}

// Close ends every Edges and Samples and the pulses that run, puts every output
// to safe and lets go of all devices. It waits for readings under way. A second
// call does nothing.
func (d *Devices) Close() error {
	d.mu.Lock()
	if d.state == stateClosed {
		d.mu.Unlock()
		return nil
	}
	d.state = stateClosed
	close(d.closing)
	d.mu.Unlock()
	var faults []error
	add := func(s Spec, err error) {
		if err != nil {
			faults = append(faults, s.fault(err))
		}
	}
	for _, o := range d.outputs { // first: they move things
		add(o.spec, o.close())
	}
	for _, i := range d.inputs {
		add(i.spec, i.close())
	}
	d.wg.Wait()
	for _, s := range d.sensors {
		add(s.spec, s.close())
	}
	if err := d.cfg.Driver.Close(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// start runs f on a goroutine that Close waits for. It returns false if the
// devices are not open.
func (d *Devices) start(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != stateOpen {
		return false
	}
	d.wg.Go(f)
	return true
}

func (d *Devices) isOpen() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state == stateOpen
}

// Line returns the Spec of a line.
func (d *Devices) Line(name string) (Spec, bool) {
	if l, ok := d.inputs[name]; ok {
		return l.spec, true
	}
	if l, ok := d.outputs[name]; ok {
		return l.spec, true
	}
	return Spec{}, false
}

// Sensor returns the type of a sensor, with the quantities that it gives.
func (d *Devices) Sensor(name string) (SensorType, bool) {
	s, ok := d.sensors[name]
	if !ok {
		return SensorType{}, false
	}
	return s.typ, true
}

// Bus returns the device file of a bus for raw use. An SPI device that a sensor
// of the config hangs on is refused: two users would break each other's
// transfers. An I2C bus is not: the kernel keeps transfers apart.
func (d *Devices) Bus(name string) (path string, err error) {
	kind, ok := BusOf(name)
	if !ok {
		return "", fmt.Errorf("%w: %q is no name of a bus: write one such as i2c-1 or spi0.0", ErrUnknown, name)
	}
	for _, s := range d.cfg.Specs {
		if kind == SPI && s.Bus == name {
			return "", s.fault(fmt.Errorf("%w: the %s hangs on %s, which cannot be used raw beside it", ErrBusy, s.Sensor, name))
		}
	}
	return d.cfg.Driver.Bus(name)
}

// unknown is the error for a name that is no device of a kind.
func (d *Devices) unknown(kind, name string) error {
	var same, all []string
	for _, s := range d.cfg.Specs {
		all = append(all, s.Name)
		if (s.Sensor != "") == (kind == "sensor") {
			same = append(same, s.Name)
		}
	}
	switch {
	case slices.Contains(all, name):
		return fmt.Errorf("%w: %q is no %s", ErrUnknown, name, kind)
	case len(same) == 0:
		return fmt.Errorf("%w: no %s is called %q: the node's config names none among its devices", ErrUnknown, kind, name)
	}
	return fmt.Errorf("%w: no %s is called %q: there are %s", ErrUnknown, kind, name, strings.Join(Near(name, same, 5), ", "))
}
