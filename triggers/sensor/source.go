package sensor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/triggers"
)

// Devices are the node's sensors.
type Devices interface {
	// Samples calls f with each sample until ctx is done, and then returns nil.
	Samples(ctx context.Context, sensor string, every time.Duration, f func(drivers.Sample)) error
}

var _ Devices = (*drivers.Devices)(nil)

// Config configures a Source. Logger and Drain may be left out.
type Config struct {
	Binding triggers.Binding // its trigger must be of a sensor
	Sink    triggers.Sink
	Node    string // the node's name
	Devices Devices
	Logger  *slog.Logger  // nil discards
	Drain   time.Duration // see triggers.LocalConfig
}

// Source hands the samples of one trigger to the node. Its methods are safe for
// concurrent use.
type Source struct {
	*triggers.Local

	cfg    Config
	filter filter
}

// New makes a Source. It touches no device.
func New(cfg Config) (*Source, error) {
	b := cfg.Binding
	switch {
	case b.Trigger.Sensor == nil:
		return nil, fmt.Errorf("trigger %q of function %q is none of a sensor", b.Trigger.Name, b.Function)
	case cfg.Sink == nil || cfg.Devices == nil || cfg.Node == "":
		return nil, fmt.Errorf("trigger %q of function %q: sink, devices or the node's name is missing", b.Trigger.Name, b.Function)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, filter: filter{trigger: *b.Trigger.Sensor}}
	s.Local = triggers.NewLocal(triggers.LocalConfig{
		Binding: b, Sink: cfg.Sink, Listen: s.listen, Drain: cfg.Drain,
		Refused: func(error) bool { return true }, // that the device does not work is a sample
		Logger:  cfg.Logger.With("component", "sensor", "device", b.Trigger.Sensor.Device),
	})
	return s, nil
}

// listen hands the samples of the sensor over until ctx is done.
func (s *Source) listen(ctx context.Context, l *triggers.Local) error {
	t := s.cfg.Binding.Trigger.Sensor
	return s.cfg.Devices.Samples(ctx, t.Device, t.Every, func(sample drivers.Sample) {
		l.Reached(sample.Err) // nil but of a fault
		if sample, ok := s.filter.pass(sample); ok {
			l.Deliver(ctx, Event(s.cfg.Node, t.Device, sample))
			l.Idle(ctx) // a reading that comes meanwhile waits at the sensor, where a newer one takes its place
		}
	})
}
