package drivers

import (
	"context"
	"slices"
)

// List describes all devices, in the order of the config. It reads the inputs;
// of a sensor it has the last reading.
func (d *Devices) List() []Info {
	all := make([]Info, 0, len(d.cfg.Specs))
	for _, s := range d.cfg.Specs {
		i := Info{Name: s.Name, Where: place(s), State: StateOK}
		d.mu.Lock()
		if line := d.found[s.Name]; line != "" {
			i.Where = line
		}
		d.mu.Unlock()
		if x, ok := d.sensors[s.Name]; ok {
			i.Kind, i.What = KindSensor, s.Sensor
			x.info(&i)
		} else if x, ok := d.outputs[s.Name]; ok {
			i.Kind, i.What = KindLine, string(Out)
			x.info(&i)
		} else if x, ok := d.inputs[s.Name]; ok {
			i.Kind, i.What = KindLine, string(In)
			x.info(&i)
		}
		all = append(all, i)
	}
	return all
}

// Kinds of devices, and states in Info.
const (
	KindLine   = "line"
	KindSensor = "sensor"

	StateOK    = "ok"
	StateFault = "fault"
)

func (i *Info) fault(err error) {
	if err != nil {
		i.State, i.Error = StateFault, err.Error()
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// Discover lists what the machine has, with the names that the config gives.
// With an error it lists what could be seen.
func (d *Devices) Discover(ctx context.Context) ([]Found, error) {
	all, err := d.cfg.Driver.Discover(ctx)
	at := map[string]string{} // device by its line; looking one up goes through every chip
	for _, s := range d.cfg.Specs {
		if s.Line == "" {
			continue
		}
		if line, err := d.cfg.Driver.Find(s); err == nil {
			at[line] = s.Name
		}
	}
	for i, f := range all {
		if f.Kind == KindLine {
			all[i].Device = at[f.At]
			continue
		}
		if n := slices.IndexFunc(d.cfg.Specs, func(s Spec) bool { return s.is(f) }); n >= 0 {
			all[i].Device = d.cfg.Specs[n].Name
		}
	}
	return all, err
}

// is reports whether a sensor is, or is on, what was found.
func (s Spec) is(f Found) bool {
	if f.Kind == string(OneWire) {
		return s.ID != "" && s.ID == f.Name
	}
	return s.Bus != "" && s.Bus == f.Name
}
