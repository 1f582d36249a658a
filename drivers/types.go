package drivers

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BusKind is how a sensor is connected.
type BusKind string

// Kinds of buses.
const (
	I2C     BusKind = "i2c"
	SPI     BusKind = "spi"
	OneWire BusKind = "1-wire" // the kernel's
)

// SensorType is a kind of sensor.
type SensorType struct {
	Name       string
	Quantities []Quantity // of all channels; see Spec.Channel
	// MinEvery is how often it can be read at most: its conversion and the
	// transfer on the slowest usual bus.
	MinEvery time.Duration

	buses     []BusKind
	addresses []uint16 // that it can have on an I2C bus; the first is the usual one
	id        bool     // it has one, as a 1-wire device
	channels  int      // 0: it is no converter
	reference bool     // it has a pin for it
	ranges    map[string]span
}

// span is what a device can measure. Anything else is no reading.
type span struct {
	low, high float64
	source    string
}

// Types are the sensors that can be read.
var Types = []SensorType{
	{
		// Four samples each: 1.25 + 2.3*4 + (2.3*4+0.575) + (2.3*4+0.575) = 30 ms at
		// most (BST-BME280-DS002, 9.1), and 3 ms of transfers at 100 kHz.
		Name: "bme280", MinEvery: 50 * time.Millisecond,
		Quantities: []Quantity{{"temperature", "C"}, {"humidity", "rH"}, {"pressure", "Pa"}},
		buses:      []BusKind{I2C, SPI}, addresses: []uint16{0x76, 0x77},
		ranges: map[string]span{
			"temperature": {-40, 85, "BST-BME280-DS002, table 2"},
			"humidity":    {0, 100, "BST-BME280-DS002, table 1"},
			"pressure":    {30000, 110000, "BST-BME280-DS002, table 3"},
		},
	},
	{
		Name: "bmp280", MinEvery: 50 * time.Millisecond,
		Quantities: []Quantity{{"temperature", "C"}, {"pressure", "Pa"}},
		buses:      []BusKind{I2C, SPI}, addresses: []uint16{0x76, 0x77},
		ranges: map[string]span{
			"temperature": {-40, 85, "BST-BMP280-DS001, table 2"},
			"pressure":    {30000, 110000, "BST-BMP280-DS001, table 2"},
		},
	},
	{
		// 750 ms for 12 bits (DS18B20, table 2), and the 1-wire transfers.
		Name: "ds18b20", MinEvery: time.Second,
		Quantities: []Quantity{{"temperature", "C"}},
		// With a bus it hangs on a DS2482 there.
		buses: []BusKind{OneWire, I2C}, addresses: []uint16{0x18, 0x19, 0x20, 0x21}, id: true,
		ranges: map[string]span{"temperature": {-55, 125, "DS18B20, Benefits and Features"}},
	},
	{
		// 128 samples a second, less a tenth (SBAS444D, 6.5), four channels.
		Name: "ads1115", MinEvery: 50 * time.Millisecond,
		Quantities: numbered(4, Quantity{"voltage", "V"}),
		buses:      []BusKind{I2C}, addresses: []uint16{0x48, 0x49, 0x4a, 0x4b}, channels: 4,
		// What its pins stand: GND - 0.3 V to VDD + 0.3 V, VDD at most 5.5 V.
		ranges: map[string]span{"voltage": {-0.3, 5.8, "SBAS444D, 6.1 and 6.3"}},
	},
	{
		Name: "mcp3008", MinEvery: 10 * time.Millisecond,
		Quantities: numbered(8, Quantity{"voltage", "V"}),
		buses:      []BusKind{SPI}, channels: 8, reference: true,
		ranges: map[string]span{"voltage": {0, MaxReference, "DS21295D, 1.0"}},
	},
}

// MaxReference is the highest voltage of a converter's reference: MCP3008's
// highest supply (DS21295D, 1.0).
const MaxReference = 5.5

// TypeOf returns the type that a Spec names, with the quantities of its
// channel.
func TypeOf(s Spec) (SensorType, bool) {
	i := slices.IndexFunc(Types, func(t SensorType) bool { return t.Name == s.Sensor })
	if i < 0 {
		return SensorType{}, false
	}
	t := Types[i]
	if t.channels > 0 && s.Channel != nil {
		q := t.Quantities[0]
		t.Quantities = []Quantity{{base(q.Name), q.Unit}}
	}
	return t, true
}

// Check returns an error that wraps ErrFault if values are not what the device
// can measure: one is missing, or none, or beyond the data sheet's range.
func (t SensorType) Check(values map[Quantity]float64) error {
	for _, q := range t.Quantities {
		v, ok := values[q]
		s := t.ranges[base(q.Name)]
		switch {
		case !ok:
			return fmt.Errorf("%w: it gave no %s", ErrFault, q.Name)
		case math.IsNaN(v) || v < s.low || v > s.high:
			return fmt.Errorf("%w: %s of %g %s is nonsense: a %s measures %g to %g (%s)", ErrFault, q.Name, v, q.Unit, t.Name, s.low, s.high, s.source)
		}
	}
	return nil
}

func numbered(n int, q Quantity) []Quantity {
	all := make([]Quantity, n)
	for i := range all {
		all[i] = Quantity{q.Name + strconv.Itoa(i), q.Unit}
	}
	return all
}

// base is a quantity's name without its number.
func base(name string) string { return strings.TrimRight(name, "0123456789") }

func typeNames() []string {
	names := make([]string, len(Types))
	for i, t := range Types {
		names[i] = t.Name
	}
	return names
}

// Addresses are those that it can have on an I2C bus, the usual one first.
func (t SensorType) Addresses() []uint16 { return slices.Clone(t.addresses) }
