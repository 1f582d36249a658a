package periph

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"periph.io/x/conn/v3/onewire"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/ds18b20"
	"periph.io/x/devices/v3/ds248x"

	"github.com/edgefn/edgefn/drivers"
)

// ds18b20Bits is the resolution: 1/16 of a degree, the chip's own default.
const ds18b20Bits = 12

// oneWire returns an error if the kernel has no 1-wire bus.
func (d *Driver) oneWire() error {
	if _, err := os.Stat(d.path("sys/bus/w1/devices")); err != nil {
		return fmt.Errorf("%w: the kernel has no 1-wire bus: %s", drivers.ErrUnknown, hintOneWire)
	}
	return nil
}

// ds18b20 prepares a DS18B20: the kernel's, or with a bus one behind a DS2482
// there.
func (d *Driver) ds18b20(s drivers.Spec, t drivers.SensorType) (reader, io.Closer, error) {
	temperature := t.Quantities[0]
	if s.Bus == "" {
		file := d.path("sys/bus/w1/devices", s.ID, "w1_slave")
		return func() (map[drivers.Quantity]float64, error) {
			v, err := d.w1Slave(s.ID, file)
			return map[drivers.Quantity]float64{temperature: v}, err
		}, io.NopCloser(nil), nil
	}
	b, err := d.i2cBus(s.Bus)
	if err != nil {
		return nil, nil, err
	}
	id, err := romOf(s.ID)
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	var left budget
	left.renew()
	bridge, err := ds248x.New(boundedBus{b, &left}, drivers.AddressOf(s), &ds248x.DefaultOpts)
	if err != nil {
		return nil, nil, errors.Join(answers(err, b, s, t), b.Close())
	}
	dev, err := ds18b20.New(bridge, id, ds18b20Bits)
	if err != nil {
		return nil, nil, errors.Join(fault(err), b.Close())
	}
	last := math.Inf(-1)
	return func() (map[drivers.Quantity]float64, error) {
		left.renew()
		var e physic.Env
		if err := dev.Sense(&e); err != nil {
			return nil, fault(err)
		}
		v := e.Temperature.Celsius()
		if v == powerOn && math.Abs(v-last) > nearPowerOn {
			return nil, errPowerOn
		}
		last = v
		return map[drivers.Quantity]float64{temperature: v}, nil
	}, b, nil
}

// romOf makes the ROM code of an id as the kernel writes it: the family, and the
// serial number with its highest byte first. The code has them the other way
// round, and a checksum (DS18B20, figure 7).
func romOf(id string) (onewire.Address, error) {
	family, serial, _ := strings.Cut(id, "-")
	f, err := strconv.ParseUint(family, 16, 8)
	if err != nil {
		return 0, fmt.Errorf("1-wire id %q: %w", id, err)
	}
	n, err := strconv.ParseUint(serial, 16, 48)
	if err != nil {
		return 0, fmt.Errorf("1-wire id %q: %w", id, err)
	}
	code := f | n<<8
	rom := make([]byte, 7)
	for i := range rom {
		rom[i] = byte(code >> (8 * i))
	}
	return onewire.Address(code | uint64(onewire.CalcCRC(rom))<<56), nil
}

// w1Slave has the kernel convert and reads the result. It blocks for the
// conversion.
func (d *Driver) w1Slave(id, file string) (float64, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Stat(d.path("sys/bus/w1/devices", id)); e == nil {
			return 0, fmt.Errorf("%w: the kernel has found %s and has no driver for it: load the module w1_therm", drivers.ErrFault, id)
		}
		return 0, fmt.Errorf("%w: nothing answers as %s on the 1-wire bus%s", drivers.ErrFault, id, d.slaves())
	}
	if err != nil {
		return 0, fault(err)
	}
	return parseW1Slave(string(text))
}

// slaves says what else is on the 1-wire buses.
func (d *Driver) slaves() string {
	ids := d.oneWireIDs()
	if len(ids) == 0 {
		return ": it is empty"
	}
	return ": there are " + strings.Join(ids, ", ")
}

// Scratchpad of a DS18B20 (DS18B20, figure 9).
const (
	scratchpad   = 9
	reservedByte = 5 // always 0xff
	countByte    = 6 // 0x0c until the first conversion
	powerOn      = 85.0
	// nearPowerOn is how near the reading before must have been to 85 degrees for
	// them to be believed, where the count byte is not at hand.
	nearPowerOn = 2.0
)

var errPowerOn = fmt.Errorf("%w: it has the 85 degrees that it starts with: it lost its power before it had converted", drivers.ErrFault)

// parseW1Slave reads what w1_therm gives: twice the scratchpad, with the
// checksum's verdict, and the temperature in thousandths.
//
//	91 01 4b 46 7f ff 0c 10 25 : crc=25 YES
//	91 01 4b 46 7f ff 0c 10 25 t=25062
func parseW1Slave(text string) (float64, error) {
	if text == "" { // what w1_therm gives of a sensor that was unplugged a moment ago
		return 0, fmt.Errorf("%w: it does not answer any more", drivers.ErrFault)
	}
	first, rest, _ := strings.Cut(text, "\n")
	bytes, verdict, ok := strings.Cut(first, ":")
	_, value, ok2 := strings.Cut(rest, "t=")
	if !ok || !ok2 {
		return 0, fmt.Errorf("%w: w1_therm gave %q", drivers.ErrFault, text)
	}
	raw, err := hex.DecodeString(strings.Join(strings.Fields(bytes), ""))
	if err != nil || len(raw) != scratchpad {
		return 0, fmt.Errorf("%w: w1_therm gave %q", drivers.ErrFault, text)
	}
	if !strings.HasSuffix(strings.TrimSpace(verdict), "YES") {
		return 0, fmt.Errorf("%w: checksum of the reading is wrong: the wire may be too long, or the pull-up too weak", drivers.ErrFault)
	}
	if raw[reservedByte] != 0xff { // a bus at ground reads as zeros, whose checksum is right
		return 0, fmt.Errorf("%w: what was read is no scratchpad: the bus may have a short", drivers.ErrFault)
	}
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil {
		return 0, fmt.Errorf("%w: w1_therm gave %q", drivers.ErrFault, text)
	}
	t := float64(n) / 1000
	if t == powerOn && raw[countByte] == 0x0c {
		return 0, errPowerOn
	}
	return t, nil
}
