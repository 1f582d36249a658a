package drivers

import "context"

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
func (d *Devices) Discover(ctx context.Context) ([]Found, error) {
	all, err := d.cfg.Driver.Discover(ctx)
	for i, f := range all {
		for _, s := range d.cfg.Specs {
			if d.is(s, f) {
				all[i].Device = s.Name
				break
			}
		}
	}
	return all, err
}

// is reports whether a device is what was found.
func (d *Devices) is(s Spec, f Found) bool {
	switch f.Kind {
	case KindLine:
		if s.Line == "" {
			return false
		}
		line, err := d.cfg.Driver.Find(s)
		return err == nil && line == f.At
	case string(OneWire):
		return s.ID != "" && s.ID == f.Name
	}
	return s.Bus != "" && s.Bus == f.Name
}
