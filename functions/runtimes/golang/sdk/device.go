package edgefn

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// LineRef is a digital line, by its name in the node's config. On is its active
// level, whichever voltage that is.
type LineRef struct {
	ctx  context.Context //nolint:containedctx // as in Space
	name string
}

// Line returns the line of that name, which edgefn.yaml must grant (grants:
// lines). Nothing is asked of the node yet.
func Line(ctx context.Context, name string) LineRef { return LineRef{ctx, name} }

// Set commands an output on or off once the handler has returned without an
// error. The command stands until the function gives another or releases it.
// After a crash of the node it may be given again.
func (l LineRef) Set(on bool) error {
	return l.command("set_line", map[string]any{"device": l.name, "on": on}, "set")
}

// Pulse commands an output on for a time, 1 ms to 1 min in whole milliseconds,
// and then off, once the handler has returned without an error; later commands
// of the line wait for it. It is never given twice, also across a crash of the
// node.
func (l LineRef) Pulse(d time.Duration) error {
	return l.command("pulse_line", map[string]any{"device": l.name, "ms": d.Milliseconds()}, "pulse")
}

// Release gives the function's command of an output up once the handler has
// returned without an error: the line takes the value of the next function that
// commands it, or its safe value.
func (l LineRef) Release() error {
	return l.command("release_line", map[string]any{"device": l.name}, "release")
}

func (l LineRef) command(kind string, body map[string]any, verb string) error {
	if _, err := call(l.ctx, kind, body); err != nil {
		return fmt.Errorf("%s line %q: %w", verb, l.name, err)
	}
	return nil
}

// Read reports whether the line is on: as it is at this moment, or as the
// invocation has last commanded it.
func (l LineRef) Read() (on bool, err error) {
	answer, err := call(l.ctx, "read_line", map[string]any{"device": l.name})
	if err != nil {
		return false, fmt.Errorf("read line %q: %w", l.name, err)
	}
	on, _ = answer["on"].(bool)
	return on, nil
}

// SensorRef is a sensor, by its name in the node's config.
type SensorRef struct {
	ctx  context.Context //nolint:containedctx // as in Space
	name string
}

// Sensor returns the sensor of that name, which edgefn.yaml must grant (grants:
// sensors). Nothing is asked of the node yet.
func Sensor(ctx context.Context, name string) SensorRef { return SensorRef{ctx, name} }

// Read returns what the sensor measures, each quantity under its name with its
// unit, such as temperature_C. The reading may be one that another function
// asked for just before. It is ErrRefused if the sensor does not work.
func (s SensorRef) Read() (map[string]float64, error) {
	answer, err := call(s.ctx, "read_sensor", map[string]any{"device": s.name})
	if err != nil {
		return nil, fmt.Errorf("read sensor %q: %w", s.name, err)
	}
	b, _ := answer["value"].([]byte)
	var reading map[string]float64
	if err := json.Unmarshal(b, &reading); err != nil {
		return nil, fmt.Errorf("read sensor %q: %w: %v", s.name, errFrame, err) //nolint:errorlint // text for people
	}
	return reading, nil
}
