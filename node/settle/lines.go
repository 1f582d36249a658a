package settle

import (
	"context"
	"fmt"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
)

// line answers what an invocation asks of a line, and keeps what it commands.
func (t *transaction) line(ctx context.Context, kind wire.Kind, c wire.Call) (wire.Reply, error) {
	if !t.fn.MayUseLine(c.Device) {
		return wire.Reply{}, fmt.Errorf("line %q: not granted: add it to grants.lines of function %q", c.Device, t.fn.Name)
	}
	if kind == wire.KindReadLine {
		if on, ok := t.levels[c.Device]; ok {
			return wire.Reply{On: on}, nil
		}
		on, err := t.around.ReadLine(ctx, c.Device)
		return wire.Reply{On: on}, err
	}
	if !t.around.IsOutput(c.Device) {
		return wire.Reply{}, fmt.Errorf("line %q: it is an input, which can only be read", c.Device)
	}
	if most := functions.MaxPulse.Milliseconds(); kind == wire.KindPulseLine && (c.MS < 1 || c.MS > most) {
		return wire.Reply{}, fmt.Errorf("line %q: a pulse of %d ms: 1 to %d are possible", c.Device, c.MS, most)
	}
	if err := t.count(len(c.Device)); err != nil {
		return wire.Reply{}, fmt.Errorf("line %q: %w", c.Device, err)
	}
	switch kind { //nolint:exhaustive // the calls that command a line
	case wire.KindSetLine:
		t.commands = append(t.commands, functions.SetLine{Line: c.Device, On: c.On})
		t.levels[c.Device] = c.On
	case wire.KindPulseLine:
		t.commands = append(t.commands, functions.PulseLine{Line: c.Device, For: time.Duration(c.MS) * time.Millisecond})
		t.levels[c.Device] = false
		t.pulses = true
	case wire.KindReleaseLine:
		t.commands = append(t.commands, functions.ReleaseLine{Line: c.Device})
		delete(t.levels, c.Device)
	}
	return wire.Reply{}, nil
}

func (t *transaction) sensor(ctx context.Context, c wire.Call) (wire.Reply, error) {
	if !t.fn.MayReadSensor(c.Device) {
		return wire.Reply{}, fmt.Errorf("sensor %q: not granted: add it to grants.sensors of function %q", c.Device, t.fn.Name)
	}
	value, err := t.around.ReadSensor(ctx, c.Device)
	return wire.Reply{Value: value}, err
}
