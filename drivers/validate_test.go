package drivers

import (
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	line := func(s Spec) Spec {
		if s.Line == "" {
			s.Line = "GPIO17"
		}
		return s
	}
	tests := []struct {
		name string
		spec Spec
		want []string // parts of the error; none: it is fine
	}{
		{"an input", Spec{Line: "gpiochip:pinctrl-bcm2711/17", Pull: PullUp}, nil},
		{"a label with a slash", Spec{Line: "gpiochip:a/b/3"}, nil},
		{"an output", Spec{Line: "RELAY1", Direction: Out, Initial: Low, Safe: Low}, nil},
		{"a bme280", Spec{Sensor: "bme280", Bus: "i2c-1", Address: 0x76}, nil},
		{"a bme280 at its usual address", Spec{Sensor: "bme280", Bus: "i2c-1"}, nil},
		{"a bme280 on SPI", Spec{Sensor: "bme280", Bus: "spi0.1"}, nil},
		{"a ds18b20", Spec{Sensor: "ds18b20", ID: "28-0000075f1a2b"}, nil},
		{"a ds18b20 behind a bridge", Spec{Sensor: "ds18b20", ID: "28-0000075f1a2b", Bus: "i2c-1", Address: 0x18}, nil},
		{"an mcp3008", Spec{Sensor: "mcp3008", Bus: "spi0.0", Channel: new(7), Reference: 5}, nil},

		{"nothing", Spec{}, []string{"neither a line nor a sensor"}},
		{"both", Spec{Line: "GPIO1", Sensor: "bme280"}, []string{"both a line and a sensor"}},
		{"a bad name", Spec{Name: "Door 1", Line: "GPIO1"}, []string{`"Door 1" is no name of a device`}},
		{"a bad chip line", line(Spec{Line: "gpiochip:17"}), []string{"gpiochip:LABEL/OFFSET"}},
		{"an unknown direction", line(Spec{Direction: "sideways"}), []string{`direction "sideways" is not known: use in or out`}},
		{"no safe", line(Spec{Direction: Out}), []string{"safe is missing: write safe: low or safe: high"}},
		{"a pull on an output", line(Spec{Direction: Out, Safe: Low, Pull: PullUp}), []string{"an output has no pull"}},
		{"an unknown pull", line(Spec{Pull: "sideways"}), []string{"use up, down or off"}},
		{"safe on an input", line(Spec{Safe: Low}), []string{"an input has no safe level"}},
		{"initial on an input", line(Spec{Direction: In, Initial: Low}), []string{"an input has no initial level"}},
		{"a level that is none", line(Spec{Direction: Out, Safe: "on", Initial: "off"}), []string{`safe "on" is no level`, `initial "off" is no level`}},
		{"a line with a sensor's keys", line(Spec{Bus: "i2c-1", Address: 1, ID: "x", Channel: new(0), Reference: 1}), []string{"no bus", "no address", "no id", "no channel", "no reference"}},

		{"an unknown type", Spec{Sensor: "bme28", Bus: "i2c-1"}, []string{`sensor type "bme28" is not known`, "do you mean bme280?", "bme280, bmp280, ds18b20, ads1115, mcp3008"}},
		{"a sensor with a line's keys", Spec{Sensor: "bme280", Bus: "i2c-1", Direction: Out, Pull: PullUp, Safe: Low, Initial: Low, ActiveLow: true}, []string{"no direction", "no pull", "no safe", "no initial", "no active_low"}},
		{"no bus", Spec{Sensor: "bme280"}, []string{"bus is missing", "bus: i2c-1"}},
		{"a bus that is none", Spec{Sensor: "bme280", Bus: "/dev/i2c-1"}, []string{"no name of a bus"}},
		{"the wrong kind of bus", Spec{Sensor: "mcp3008", Bus: "i2c-1"}, []string{"mcp3008 does not hang on i2c-1", "spi0.0"}},
		{"an address below the first", Spec{Sensor: "bme280", Bus: "i2c-1", Address: 0x02}, []string{"address 0x02 is none of an I2C bus", "use 0x03 to 0x77"}},
		{"an address beyond the last", Spec{Sensor: "bme280", Bus: "i2c-1", Address: 0x78}, []string{"address 0x78"}},
		{"an address that it cannot have", Spec{Sensor: "bme280", Bus: "i2c-1", Address: 0x40}, []string{"cannot have the address 0x40: use 0x76, 0x77"}},
		{"an address on SPI", Spec{Sensor: "mcp3008", Bus: "spi0.0", Address: 0x40}, []string{"has no address"}},
		{"no id", Spec{Sensor: "ds18b20"}, []string{"id is missing"}},
		{"a bad id", Spec{Sensor: "ds18b20", ID: "28-XYZ"}, []string{`"28-XYZ" is no id`}},
		{"an address without its bus", Spec{Sensor: "ds18b20", ID: "28-0000075f1a2b", Address: 0x18}, []string{"address is given without a bus"}},
		{"an id of what has none", Spec{Sensor: "bme280", Bus: "i2c-1", ID: "28-0000075f1a2b"}, []string{"bme280 has no id"}},
		{"a channel beyond the last", Spec{Sensor: "ads1115", Bus: "i2c-1", Channel: new(4)}, []string{"no channel 4: use 0 to 3"}},
		{"a channel of what has none", Spec{Sensor: "bme280", Bus: "i2c-1", Channel: new(0)}, []string{"has no channels"}},
		{"a reference of what has none", Spec{Sensor: "ads1115", Bus: "i2c-1", Reference: 3.3}, []string{"has no reference"}},
		{"a reference that is none", Spec{Sensor: "mcp3008", Bus: "spi0.0", Reference: -1}, []string{"reference -1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.spec.Name == "" {
				tt.spec.Name = "it"
			}
			tt.spec.Where = "edgefn.yaml:7"
			err := Validate([]Spec{tt.spec})
			if len(tt.want) == 0 {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("nothing is wrong")
			}
			for f := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(f, "edgefn.yaml:7: device ") {
					t.Errorf("%q does not say where it is", f)
				}
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in\n%v", w, err)
				}
			}
		})
	}
}

func TestValidateFindsWhatIsThereTwice(t *testing.T) {
	err := Validate([]Spec{
		{Name: "a", Line: "GPIO17"},
		{Name: "b", Line: "GPIO17"},
		{Name: "c", Sensor: "bme280", Bus: "i2c-1"},
		{Name: "d", Sensor: "bme280", Bus: "i2c-1", Address: 0x76},
		{Name: "e", Sensor: "bme280", Bus: "i2c-1", Address: 0x77},
		{Name: "f", Sensor: "mcp3008", Bus: "spi0.0", Channel: new(0)},
		{Name: "g", Sensor: "mcp3008", Bus: "spi0.0", Channel: new(1)},
		{Name: "a", Line: "GPIO18"},
	})
	want := []string{
		`device "b": the line GPIO17 has a name already: "a"`,
		`device "d": the sensor at i2c-1 0x76 has a name already: "c"`,
		`device "a": the name is given twice`,
	}
	if err == nil || len(strings.Split(err.Error(), "\n")) != len(want) {
		t.Fatalf("got %v, want %d faults", err, len(want))
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in\n%v", w, err)
		}
	}
}

// FuzzParseChipLine: what parses says the same when it is written again.
func FuzzParseChipLine(f *testing.F) {
	for _, s := range []string{"gpiochip:pinctrl-bcm2711/17", "gpiochip:a/b/0", "gpiochip:/1", "gpiochip:x/-1", "GPIO17"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		label, offset, ok := ParseChipLine(s)
		if !ok {
			return
		}
		if offset < 0 || label == "" || ChipLine(label, offset) != s {
			t.Errorf("%q is %q and %d", s, label, offset)
		}
	})
}
