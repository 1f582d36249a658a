package periph

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/ads1x15"
	"periph.io/x/devices/v3/bmxx80"

	"github.com/edgefn/edgefn/drivers"
)

// reader makes one reading.
type reader func() (map[drivers.Quantity]float64, error)

// opener prepares a device. The Closer belongs to what the reader stands on.
type opener func(s drivers.Spec, t drivers.SensorType) (reader, io.Closer, error)

// openers lists how each type of sensor is read.
func (d *Driver) openers() map[string]opener {
	return map[string]opener{
		"bme280":  d.bmx280,
		"bmp280":  d.bmx280,
		"ds18b20": d.ds18b20,
		"ads1115": d.ads1115,
		"mcp3008": d.mcp3008,
	}
}

// Sensor implements drivers.Driver.
func (d *Driver) Sensor(s drivers.Spec) (drivers.Sensor, error) {
	t, ok := drivers.TypeOf(s)
	open, known := d.openers()[s.Sensor]
	if !ok || !known {
		return nil, fmt.Errorf("%w: sensor type %q", drivers.ErrUnknown, s.Sensor)
	}
	x := &sensor{open: func() (reader, io.Closer, error) { return open(s, t) }, shared: &sync.Mutex{}}
	switch kind, _ := drivers.BusOf(s.Bus); kind {
	case drivers.I2C:
		x.shared = d.lock(fmt.Sprintf("%s %#02x", s.Bus, drivers.AddressOf(s)))
		b, err := d.i2cBus(s.Bus) // to see that it may be used
		if err != nil {
			return nil, err
		}
		_ = b.Close()
		return x, nil
	case drivers.SPI:
		p, err := d.spiPort(s.Bus)
		if err != nil {
			return nil, err
		}
		_ = p.Close()
		return x, nil
	default:
		if err := d.oneWire(); err != nil {
			return nil, err
		}
		return x, nil
	}
}

// sensor opens its device when it is read first, and anew after each failure:
// what was unplugged has forgotten its settings.
type sensor struct {
	open   opened
	shared *sync.Mutex // held over a reading by all who use the chip
	read   reader      // nil: not open
	close  io.Closer
}

type opened func() (reader, io.Closer, error)

func (x *sensor) Read() (map[drivers.Quantity]float64, error) {
	x.shared.Lock()
	defer x.shared.Unlock()
	if x.read == nil {
		read, c, err := x.open()
		if err != nil {
			return nil, err
		}
		x.read, x.close = read, c
	}
	values, err := x.read()
	if err != nil {
		_ = x.Close()
		return nil, err
	}
	for q, v := range values {
		values[q] = round(v)
	}
	return values, nil
}

func (x *sensor) Close() error {
	if x.read == nil {
		return nil
	}
	x.read = nil
	return x.close.Close()
}

// round takes the noise of a float away: no device here is finer than 1e-6.
func round(v float64) float64 { return math.Round(v*1e6) / 1e6 }

// answers adds to a failed transfer what is known about the address.
func answers(err error, b i2c.Bus, s drivers.Spec, t drivers.SensorType) error {
	if !noAnswer(err) {
		return fault(err)
	}
	a := drivers.AddressOf(s)
	text := fmt.Sprintf("nothing answers at address %#02x on %s", a, s.Bus)
	cause := strings.TrimLeft(err.Error(), ": ")
	// Only where this type can be is looked, and only by a read of one byte, which
	// starts nothing in any device.
	for _, other := range t.Addresses() {
		if other != a && b.Tx(other, nil, make([]byte, 1)) == nil {
			return fmt.Errorf("%w: %s, but something does at %#02x (%s)", drivers.ErrFault, text, other, cause)
		}
	}
	return fmt.Errorf("%w: %s: is it plugged in? (%s)", drivers.ErrFault, text, cause)
}

// Registers of the BME280 (BST-BME280-DS002, 5.3).
const (
	bme280CtrlHum = 0xf2
	bme280Hum     = byte(bmxx80.O4x) // what bmxx80 sets it to with its default options; 0 after a reset
)

var errForgot = fmt.Errorf("%w: it has lost its settings: it was without power", drivers.ErrFault)

// bmx280 prepares a BME280 or BMP280 on an I2C or SPI bus.
func (d *Driver) bmx280(s drivers.Spec, t drivers.SensorType) (reader, io.Closer, error) {
	var dev *bmxx80.Dev
	var closer io.Closer
	var register func(reg byte) (byte, error)
	var left budget
	left.renew()
	opts := bmxx80.DefaultOpts
	explain := fault
	if kind, _ := drivers.BusOf(s.Bus); kind == drivers.SPI {
		p, err := d.spiPort(s.Bus)
		if err != nil {
			return nil, nil, err
		}
		closer = p
		port := &boundedPort{Port: p, budget: &left}
		dev, err = bmxx80.NewSPI(port, &opts)
		if err != nil {
			return nil, nil, errors.Join(fault(err), p.Close())
		}
		register = func(reg byte) (byte, error) {
			var r [2]byte
			err := port.conn.Tx([]byte{reg, 0}, r[:])
			return r[1], err
		}
	} else {
		b, err := d.i2cBus(s.Bus)
		if err != nil {
			return nil, nil, err
		}
		closer = b
		explain = func(err error) error { return answers(err, b, s, t) }
		dev, err = bmxx80.NewI2C(boundedBus{b, &left}, drivers.AddressOf(s), &opts)
		if err != nil {
			return nil, nil, errors.Join(explain(err), b.Close())
		}
		register = func(reg byte) (byte, error) {
			var r [1]byte
			err := b.Tx(drivers.AddressOf(s), []byte{reg}, r[:])
			return r[0], err
		}
	}
	if chip, _, _ := strings.Cut(strings.ToLower(dev.String()), "{"); chip != t.Name {
		err := fmt.Errorf("%w: a %s answers there, not a %s: write sensor: %s, if it is the one", drivers.ErrFault, chip, t.Name, chip)
		return nil, nil, errors.Join(err, closer.Close())
	}
	return func() (map[drivers.Quantity]float64, error) {
		left.renew()
		if t.Name == "bme280" {
			// One that was unplugged since the last reading measures no humidity, and
			// gives a number for it nevertheless.
			if v, err := register(bme280CtrlHum); err != nil {
				return nil, explain(err)
			} else if v&0x07 != bme280Hum {
				return nil, errForgot
			}
		}
		var e physic.Env
		if err := dev.Sense(&e); err != nil {
			return nil, explain(err)
		}
		values := map[drivers.Quantity]float64{}
		for _, q := range t.Quantities {
			switch q.Name {
			case "temperature":
				values[q] = e.Temperature.Celsius()
			case "humidity":
				values[q] = float64(e.Humidity) / float64(physic.PercentRH)
			case "pressure":
				values[q] = float64(e.Pressure) / float64(physic.Pascal)
			}
		}
		return values, nil
	}, closer, nil
}

// ads1115Range is the largest of the ADS1115's ranges, 6.144 V: with it no input
// that the chip stands is cut off. A bit is 187.5 uV (SBAS444D, table 3).
const ads1115Range = 6144 * physic.MilliVolt

// ads1115Rate is in samples a second (SBAS444D, table 8).
const ads1115Rate = 128 * physic.Hertz

// ads1115 prepares the channels of an ADS1115.
func (d *Driver) ads1115(s drivers.Spec, t drivers.SensorType) (reader, io.Closer, error) {
	b, err := d.i2cBus(s.Bus)
	if err != nil {
		return nil, nil, err
	}
	var left budget
	dev, err := ads1x15.NewADS1115(converted{boundedBus{b, &left}}, &ads1x15.Opts{I2cAddress: drivers.AddressOf(s)})
	if err != nil {
		return nil, nil, errors.Join(fault(err), b.Close())
	}
	channels := []ads1x15.Channel{ads1x15.Channel0, ads1x15.Channel1, ads1x15.Channel2, ads1x15.Channel3}
	if s.Channel != nil {
		channels = channels[*s.Channel : *s.Channel+1]
	}
	pins := make([]ads1x15.PinADC, len(channels))
	for i, c := range channels {
		if pins[i], err = dev.PinForChannel(c, ads1115Range, ads1115Rate, ads1x15.BestQuality); err != nil {
			return nil, nil, errors.Join(fault(err), b.Close())
		}
	}
	return func() (map[drivers.Quantity]float64, error) {
		left.renew()
		values := map[drivers.Quantity]float64{}
		for i, p := range pins {
			sample, err := p.Read()
			if err != nil {
				return nil, answers(err, b, s, t)
			}
			values[t.Quantities[i]] = float64(sample.V) / float64(physic.Volt)
		}
		return values, nil
	}, b, nil
}

// Registers of the ADS1115 (SBAS444D, 9.6).
const (
	ads1115Conversion = 0x00
	ads1115Config     = 0x01
	ads1115Ready      = 0x80 // in the first byte of the config: no conversion is under way
)

var errOther = errors.New("it does not keep its settings: another device answers, or the bus hangs")

// converted is the bus of an ADS1115 on which a result is read only when the
// conversion that was asked for has ended, and with the settings that it was
// asked for.
type converted struct{ i2c.Bus }

func (c converted) Tx(addr uint16, w, r []byte) error {
	if len(w) != 1 || w[0] != ads1115Conversion {
		return c.Bus.Tx(addr, w, r)
	}
	for {
		var config [2]byte
		if err := c.Bus.Tx(addr, []byte{ads1115Config}, config[:]); err != nil {
			return err
		}
		if config[0]&0x01 == 0 || config[1]&0x1f != 0x03 { // single-shot, comparator off, as ads1x15 sets it
			return errOther
		}
		if config[0]&ads1115Ready != 0 {
			return c.Bus.Tx(addr, w, r)
		}
	}
}
