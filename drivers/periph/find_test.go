package periph

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpiotest"

	"github.com/edgefn/edgefn/drivers"
)

// chips of a machine with what makes trouble: unnamed lines, a name that is there
// twice, a label that is there twice.
func someChips() []chip {
	lines := func(names ...string) []line {
		all := make([]line, len(names))
		for i, n := range names {
			all[i] = line{offset: i, name: n}
		}
		return all
	}
	c := []chip{
		{"gpiochip0", "pinctrl-bcm2711", lines("ID_SDA", "ID_SCL", "GPIO2", "GPIO3", "", "WAKE")},
		{"gpiochip1", "raspberrypi-exp-gpio", lines("BT_ON", "WAKE")},
		{"gpiochip2", "ftdi", lines("", "RELAY1")},
		{"gpiochip3", "ftdi", lines("", "RELAY2")},
	}
	c[0].lines[2].used, c[0].lines[2].consumer = true, "lcd"
	c[0].lines[3].used = true
	return c
}

// aliasPin is a header's pin: another name of a real one.
type aliasPin struct{ gpio.PinIO }

func (a aliasPin) Name() string     { return "P1_5" }
func (a aliasPin) Real() gpio.PinIO { return a.PinIO }

func withChips(d *Driver) *Driver {
	pins := map[string]gpio.PinIO{
		"GPIO512": &gpiotest.Pin{N: "GPIO512"},
		"P1_5":    aliasPin{&gpiotest.Pin{N: "GPIO3"}},
	}
	d.chips = func() ([]chip, error) { return someChips(), nil }
	d.pin = func(n string) gpio.PinIO {
		if p, ok := pins[n]; ok {
			return p
		}
		return nil
	}
	d.pins = func() []string { return []string{"GPIO512", "P1_5"} }
	return d
}

func TestFind(t *testing.T) {
	d := withChips(New(Config{}))
	tests := []struct {
		line, want string // where it is, or a part of the error
	}{
		{"gpiochip:pinctrl-bcm2711/2", "gpiochip:pinctrl-bcm2711/2"},
		{"gpiochip:pinctrl-bcm2711/4", "gpiochip:pinctrl-bcm2711/4"}, // it has no name
		{"gpiochip:gpiochip0/2", "gpiochip:pinctrl-bcm2711/2"},
		{"GPIO2", "gpiochip:pinctrl-bcm2711/2"},
		{"P1_5", "gpiochip:pinctrl-bcm2711/3"}, // through periph, and the name of its pin
		{"RELAY1", "gpiochip:gpiochip2/1"},     // its chip's label is there twice
		{"gpiochip:gpiochip3/1", "gpiochip:gpiochip3/1"},
		{"GPIO512", "GPIO512"}, // only periph has it

		{"gpiochip:pinctrl-bcm2712/2", `no GPIO chip has the label "pinctrl-bcm2712": near are pinctrl-bcm2711`},
		{"gpiochip:pinctrl-bcm2711/6", `chip "pinctrl-bcm2711" has the lines 0 to 5, and no 6`},
		{"gpiochip:ftdi/1", `2 GPIO chips have the label "ftdi": name the line instead, or write gpiochip:gpiochip2/1`},
		{"WAKE", `2 lines are called "WAKE": write the one that is meant: gpiochip:pinctrl-bcm2711/5 or gpiochip:raspberrypi-exp-gpio/1`},
		{"RELAY3", `no line is called "RELAY3": near are RELAY1, RELAY2`},
		{"GPIO51", "GPIO512"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			got, err := d.Find(drivers.Spec{Line: tt.line})
			if err == nil && got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if err != nil && (!errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestFindOnAMachineWithoutChips(t *testing.T) {
	d := withChips(New(Config{}))
	d.pins = func() []string { return nil }
	d.chips = func() ([]chip, error) { return nil, nil }
	for _, line := range []string{"GPIO17", "gpiochip:x/1"} {
		if _, err := d.Find(drivers.Spec{Line: line}); !errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), "this machine has no GPIO chip; hardware: sim") {
			t.Errorf("%s: got %v", line, err)
		}
	}
	d.chips = func() ([]chip, error) {
		return nil, &fs.PathError{Op: "open", Path: "/dev/gpiochip0", Err: fs.ErrPermission}
	}
	if _, err := d.Find(drivers.Spec{Line: "GPIO17"}); !errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), "groups gpio, i2c and spi") {
		t.Errorf("got %v, want what keeps the chips from sight", err)
	}
}

func TestDiscover(t *testing.T) {
	d := withChips(machine(t, map[string]string{
		"dev/i2c-1": "", "dev/spidev0.0": "",
		"sys/bus/i2c/devices/i2c-1/name":        "bcm2835 (i2c@7e804000)\n",
		"sys/bus/i2c/devices/1-0068/name":       "ds1307\n",
		"sys/bus/i2c/devices/i2c-20/name":       "hdmi\n",
		"sys/bus/i2c/devices/1-0068/driver/x":   "",
		"sys/bus/i2c/devices/1-0050/name":       "no-driver\n",
		"sys/bus/w1/devices/" + soilID + "/id":  "",
		"sys/bus/w1/devices/w1_bus_master1/x":   "",
		"sys/bus/w1/devices/10-000000000001/id": "",
	}))
	found, err := d.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) drivers.Found {
		i := slices.IndexFunc(found, func(f drivers.Found) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("%s is not found", name)
		}
		return found[i]
	}
	for _, want := range []drivers.Found{
		{Kind: "line", Name: "GPIO2", At: "gpiochip:pinctrl-bcm2711/2", What: "line 2 of gpiochip0 (pinctrl-bcm2711)", UsedBy: "lcd", Config: `gpio2: {line: "GPIO2"}`},
		{Kind: "line", Name: "GPIO3", At: "gpiochip:pinctrl-bcm2711/3", What: "line 3 of gpiochip0 (pinctrl-bcm2711)", UsedBy: "the kernel", Config: `gpio3: {line: "GPIO3"}`},
		{Kind: "line", Name: "gpiochip:pinctrl-bcm2711/4", At: "gpiochip:pinctrl-bcm2711/4", What: "line 4 of gpiochip0 (pinctrl-bcm2711)", Config: `pinctrl-bcm2711-4: {line: "gpiochip:pinctrl-bcm2711/4"}`},
		{Kind: "line", Name: "gpiochip:raspberrypi-exp-gpio/1", At: "gpiochip:raspberrypi-exp-gpio/1", What: "line 1 of gpiochip1 (raspberrypi-exp-gpio)", Config: `wake: {line: "gpiochip:raspberrypi-exp-gpio/1"}`},
		{Kind: "i2c", Name: "i2c-1", What: "I2C bus: bcm2835 (i2c@7e804000)", UsedBy: "ds1307 at 0x68", Config: "sensor-i2c-1: {sensor: bme280, bus: i2c-1, address: 0x76}"},
		{Kind: "i2c", Name: "i2c-20", What: "I2C bus without a device file: load the module i2c-dev: hdmi"},
		{Kind: "spi", Name: "spi0.0", What: "SPI device", Config: "adc-spi0-0: {sensor: mcp3008, bus: spi0.0}"},
		{Kind: "1-wire", Name: soilID, What: "DS18B20 thermometer", Config: "temperature-28-0000075f1a2b: {sensor: ds18b20, id: " + soilID + "}"},
	} {
		if diff := cmp.Diff(want, find(want.Name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Name, diff)
		}
	}
	if len(found) != 16 {
		t.Errorf("%d found, want 12 lines and 4 others", len(found))
	}
	// What is to be pasted is a config.
	var specs []drivers.Spec
	for _, f := range found {
		if f.Config == "" {
			continue
		}
		name, _, _ := strings.Cut(f.Config, ":")
		s := drivers.Spec{Name: name}
		switch f.Kind {
		case drivers.KindLine:
			s.Line = f.Name
		case "i2c":
			s.Sensor, s.Bus, s.Address = "bme280", f.Name, 0x76
		case "spi":
			s.Sensor, s.Bus = "mcp3008", f.Name
		case "1-wire":
			s.Sensor, s.ID = "ds18b20", f.Name
		}
		specs = append(specs, s)
	}
	if err := drivers.Validate(specs); err != nil && !strings.Contains(err.Error(), "the name is given twice") {
		t.Error(err)
	}
}

func TestDecode(t *testing.T) {
	o := binary.NativeEndian
	b := o.AppendUint64(nil, 123456789)
	for _, v := range []uint32{2, 17, 99, 7, 0, 0, 0, 0, 0, 0} { // falling, offset, number in the request, number on the line
		b = o.AppendUint32(b, v)
	}
	if len(b) != eventSize {
		t.Fatalf("an event has %d bytes, want %d", eventSize, len(b))
	}
	if got, want := decode(b), (drivers.RawEdge{Kernel: 123456789, Seq: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	o.PutUint32(b[8:], 1)
	if !decode(b).Rising {
		t.Error("a rising edge falls")
	}
}

func TestWallTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name       string
		mono, edge time.Duration
		age        time.Duration
	}{
		{"a moment ago", time.Hour, time.Hour - time.Millisecond, time.Millisecond},
		{"now", time.Hour, time.Hour, 0},
		{"a clock that is ahead", time.Hour, 2 * time.Hour, 0},
		{"another clock", 100 * time.Hour, time.Second, 0},
	}
	for _, tt := range tests {
		if got := now.Sub(wallTime(now, tt.mono, tt.edge)); got != tt.age {
			t.Errorf("%s: %s ago, want %s", tt.name, got, tt.age)
		}
	}
}
