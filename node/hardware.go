package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/drivers/periph"
	"github.com/edgefn/edgefn/drivers/sim"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/deploy"
	"github.com/edgefn/edgefn/node/devices"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/gpio"
	"github.com/edgefn/edgefn/triggers/sensor"
)

// hardware gives the devices the node's words.
type hardware struct {
	*drivers.Devices
	sim *sim.Driver // nil: it is real
}

// driver is what serves a config's devices.
func driver(cfg *Config) drivers.Driver {
	if cfg.Hardware == HardwareSim {
		return sim.New()
	}
	return periph.New(periph.Config{Logger: cfg.Logger})
}

func newDevices(cfg *Config) (devices.Hardware, error) {
	d := driver(cfg)
	all, err := drivers.New(drivers.Config{Specs: cfg.Devices, Driver: d, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	simulated, _ := d.(*sim.Driver)
	return hardware{all, simulated}, nil
}

// Simulate implements devices.Hardware.
func (h hardware) Simulate(name, what string) error {
	if h.sim == nil {
		return errors.New("this node's hardware is real: hardware: sim in its config simulates every device")
	}
	quantity, number, isValue := strings.Cut(what, "=")
	switch {
	case isValue:
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return fmt.Errorf("simulate %s: %q is no number", name, number)
		}
		return h.sim.SetSensor(name, quantity, v)
	case what == "on" || what == "off":
		return h.sim.SetLine(name, what == "on")
	case what == "fault":
		return h.sim.Fail(name, fmt.Errorf("%w: simulated fault", drivers.ErrFault))
	case what == "ok":
		return h.sim.Fail(name, nil)
	}
	return fmt.Errorf("simulate %s: %q is none of on, off, QUANTITY=VALUE, fault, ok", name, what)
}

// Safe puts every output of a config to its safe value, lets go of them and
// returns their names. It is for a machine whose node was killed: what is wrong
// with one device keeps no other from being safe.
func Safe(ctx context.Context, cfg *Config) ([]string, error) {
	d := driver(cfg)
	var names []string
	var faults []error
	for _, s := range cfg.Devices {
		if s.Direction != drivers.Out {
			continue
		}
		one := []drivers.Spec{s}
		if err := drivers.Validate(one); err != nil {
			faults = append(faults, &api.Error{Err: errors.Join(api.ErrInvalid, err), Message: err.Error()})
			continue
		}
		if err := drivers.Safe(ctx, one, d, cfg.Logger); err != nil {
			faults = append(faults, err)
			continue
		}
		names = append(names, s.Name)
	}
	return names, unsafeLines(errors.Join(append(faults, d.Close())...))
}

// unsafeLines adds what to do about lines that somebody has.
func unsafeLines(err error) error {
	if !errors.Is(err, drivers.ErrBusy) {
		return err
	}
	return &api.Error{Err: err, Message: err.Error(), Hint: "a node that runs keeps its own lines, and puts them to their safe values when it stops: systemctl stop edgefn"}
}

// edgeSource gives the source of a line's edges the node's words.
type edgeSource struct{ *gpio.Source }

func newEdgeSource(cfg *Config, b triggers.Binding, sink triggers.Sink, d devices.Hardware) (deploy.Source, error) {
	s, err := gpio.New(gpio.Config{Node: cfg.Name, Binding: b, Sink: sink, Devices: d, Logger: cfg.Logger, Drain: drainTime})
	if err != nil {
		return nil, err
	}
	return edgeSource{s}, nil
}

// Status implements deploy.Source.
func (s edgeSource) Status() api.SourceInfo { return deviceStatus(s.Source.Status()) }

// sensorSource gives the source of a sensor's readings the node's words.
type sensorSource struct{ *sensor.Source }

func newSensorSource(cfg *Config, b triggers.Binding, sink triggers.Sink, d devices.Hardware) (deploy.Source, error) {
	s, err := sensor.New(sensor.Config{Node: cfg.Name, Binding: b, Sink: sink, Devices: d, Logger: cfg.Logger, Drain: drainTime})
	if err != nil {
		return nil, err
	}
	return sensorSource{s}, nil
}

// Status implements deploy.Source.
func (s sensorSource) Status() api.SourceInfo { return deviceStatus(s.Source.Status()) }

func deviceStatus(state string, err error) api.SourceInfo {
	i := api.SourceInfo{State: state}
	if err != nil {
		i.Error = err.Error()
	}
	return i
}
