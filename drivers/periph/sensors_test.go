package periph

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"periph.io/x/conn/v3/conntest"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/i2c/i2ctest"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/conn/v3/spi/spitest"

	"github.com/edgefn/edgefn/drivers"
)

// errNAK is what the kernel gives when nothing acknowledges, as periph passes it on.
var errNAK = errors.New("sysfs-i2c: no such device or address")

// bus plays transfers back to the addresses that answer.
type bus struct {
	i2ctest.Playback
	answer []uint16
	hangs  int // after so many transfers, reads are ones, whatever is asked; 0: it does not
	closes int
}

func newBus(answer ...uint16) *bus {
	return &bus{answer: answer, Playback: i2ctest.Playback{DontPanic: true}}
}

func (b *bus) Tx(addr uint16, w, r []byte) error {
	switch {
	case !slices.Contains(b.answer, addr):
		return errNAK
	case len(w) == 0 && (b.Count == len(b.Ops) || len(b.Ops[b.Count].W) > 0): // is somebody there?
		return nil
	case b.hangs > 0 && b.Count >= b.hangs:
		for i := range r {
			r[i] = 0xff
		}
		return nil
	}
	return b.Playback.Tx(addr, w, r)
}

func (b *bus) Close() error { b.closes++; return nil }

// machine is a Driver with files, whose buses are given.
func machine(t *testing.T, files map[string]string) *Driver {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(Config{Root: root})
}

// onI2C opens a sensor that hangs on b.
func onI2C(t *testing.T, s drivers.Spec, b *bus) drivers.Sensor {
	t.Helper()
	s.Name, s.Bus = "it", "i2c-1"
	d := machine(t, map[string]string{"dev/i2c-1": ""})
	d.openI2C = func(n int) (i2c.BusCloser, error) {
		if n != 1 {
			t.Errorf("bus %d opened", n)
		}
		return b, nil
	}
	x, err := d.Sensor(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// done says that all of a playback was used.
func done(t *testing.T, b *bus) {
	t.Helper()
	if b.Count != len(b.Ops) {
		t.Errorf("%d transfers, want %d", b.Count, len(b.Ops))
	}
}

// The calibration and the raw values of the data sheet's example
// (BST-BMP280-DS001, 3.12), which give 25.08 degrees and 100653.27 Pa.
var exampleCalibration = func() []byte {
	b := make([]byte, 26)
	words := []int{27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000}
	for i, w := range words {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(w))
	}
	b[25] = 75 // H1
	return b
}()

var (
	examplePressure    = []byte{0x65, 0x5a, 0xc0} // 415148
	exampleTemperature = []byte{0x7e, 0xed, 0x00} // 519888
	exampleHumidity    = []byte{0x6b, 0x50}
	humidityWords      = []byte{0x6e, 0x01, 0x00, 0x13, 0x05, 0x00, 0x1e} // H2 366, H3 0, H4 309, H5 0, H6 30
)

// humidity is the formula in floating point (BST-BME280-DS002, appendix A).
func humidity(raw float64) float64 {
	const h1, h2, h3, h4, h5, h6 = 75, 366, 0, 309, 0, 30
	fine := 25.08*5120 - 76800
	h := (raw - (h4*64 + h5/16384*fine)) * (h2 / 65536.0 * (1 + h6/67108864.0*fine*(1+h3/67108864*fine)))
	return h * (1 - h1*h/524288)
}

func bme280Ops(addr uint16) []i2ctest.IO {
	return []i2ctest.IO{
		{Addr: addr, W: []byte{0xd0}, R: []byte{0x60}},
		{Addr: addr, W: []byte{0x88}, R: exampleCalibration},
		{Addr: addr, W: []byte{0xe1}, R: humidityWords},
		{Addr: addr, W: []byte{0xf4, 0x6c, 0xf2, 0x03, 0xf5, 0xa0, 0xf4, 0x6c}},
	}
}

func bme280Measure(addr uint16) []i2ctest.IO {
	return []i2ctest.IO{
		{Addr: addr, W: []byte{0xf2}, R: []byte{0x03}}, // its settings are there
		{Addr: addr, W: []byte{0xf4, 0x6d}},
		{Addr: addr, W: []byte{0xf3}, R: []byte{0x08}}, // converting
		{Addr: addr, W: []byte{0xf3}, R: []byte{0x00}},
		{Addr: addr, W: []byte{0xf7}, R: slices.Concat(examplePressure, exampleTemperature, exampleHumidity)},
	}
}

func want(t *testing.T, x drivers.Sensor, want map[string]float64) {
	t.Helper()
	values, err := x.Read()
	if err != nil {
		t.Fatal(err)
	}
	if len(values) != len(want) {
		t.Errorf("got %v, want %v", values, want)
	}
	for q, v := range values {
		w, ok := want[q.Key()]
		if !ok || math.Abs(v-w) > 0.05 {
			t.Errorf("%s is %v, want %v", q.Key(), v, w)
		}
	}
}

func wantFault(t *testing.T, x drivers.Sensor, parts ...string) {
	t.Helper()
	values, err := x.Read()
	if !errors.Is(err, drivers.ErrFault) {
		t.Fatalf("got %v, %v, want ErrFault", values, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q is not in %q", p, err)
		}
	}
}

func TestBME280(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x77)
		b.Ops = slices.Concat(bme280Ops(0x77), bme280Measure(0x77), bme280Measure(0x77))
		x := onI2C(t, drivers.Spec{Sensor: "bme280", Address: 0x77}, b)
		if b.Count != 0 {
			t.Error("the sensor is touched before it is read")
		}
		for range 2 {
			want(t, x, map[string]float64{"temperature_C": 25.08, "pressure_Pa": 100653.27, "humidity_rH": humidity(0x6b50)})
		}
		if values, _ := x.Read(); values != nil {
			t.Errorf("got %v beyond the recording", values)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestBMP280(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x76)
		b.Ops = []i2ctest.IO{
			{Addr: 0x76, W: []byte{0xd0}, R: []byte{0x58}},
			{Addr: 0x76, W: []byte{0x88}, R: exampleCalibration},
			{Addr: 0x76, W: []byte{0xf4, 0x6c, 0xf5, 0xa0, 0xf4, 0x6c}},
			{Addr: 0x76, W: []byte{0xf4, 0x6d}},
			{Addr: 0x76, W: []byte{0xf3}, R: []byte{0x00}},
			{Addr: 0x76, W: []byte{0xf7}, R: slices.Concat(examplePressure, exampleTemperature)},
		}
		want(t, onI2C(t, drivers.Spec{Sensor: "bmp280"}, b), map[string]float64{"temperature_C": 25.08, "pressure_Pa": 100653.27})
		done(t, b)
	})
}

func TestBME280OnSPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		padded := func(b ...byte) []byte { return append([]byte{0}, b...) }
		ask := func(reg byte, n int) []byte { return append([]byte{reg}, make([]byte, n)...) }
		port := &spitest.Playback{Playback: conntest.Playback{Ops: []conntest.IO{
			{W: ask(0xd0, 1), R: padded(0x60)},
			{W: ask(0x88, 26), R: padded(exampleCalibration...)},
			{W: ask(0xe1, 7), R: padded(humidityWords...)},
			{W: []byte{0x74, 0x6c, 0x72, 0x03, 0x75, 0xa0, 0x74, 0x6c}},
			{W: ask(0xf2, 1), R: padded(0x03)},
			{W: []byte{0x74, 0x6d}},
			{W: ask(0xf3, 1), R: padded(0)},
			{W: ask(0xf7, 8), R: padded(slices.Concat(examplePressure, exampleTemperature, exampleHumidity)...)},
		}, DontPanic: true}}
		x := onSPI(t, drivers.Spec{Sensor: "bme280"}, port)
		want(t, x, map[string]float64{"temperature_C": 25.08, "pressure_Pa": 100653.27, "humidity_rH": humidity(0x6b50)})
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNothingAnswers(t *testing.T) {
	b := newBus()
	x := onI2C(t, drivers.Spec{Sensor: "bme280", Address: 0x77}, b)
	wantFault(t, x, "nothing answers at address 0x77 on i2c-1", "is it plugged in?")
	b.answer = []uint16{0x76}
	wantFault(t, x, "nothing answers at address 0x77 on i2c-1, but something does at 0x76")
	if b.closes != 3 { // once to see that the bus may be used
		t.Errorf("bus closed %d times, want 3", b.closes)
	}
}

// What was unplugged is set up again when it is back.
func TestPluggedInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x76)
		b.Ops = slices.Concat(bme280Ops(0x76), bme280Measure(0x76), bme280Ops(0x76), bme280Measure(0x76))
		x := onI2C(t, drivers.Spec{Sensor: "bme280"}, b)
		values := map[string]float64{"temperature_C": 25.08, "pressure_Pa": 100653.27, "humidity_rH": humidity(0x6b50)}
		want(t, x, values)
		b.answer = nil
		wantFault(t, x, "nothing answers at address 0x76")
		b.answer = []uint16{0x76}
		want(t, x, values)
		done(t, b)
	})
}

// So is one that was unplugged and is back before anybody saw it.
func TestWithoutPowerForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x76)
		forgot := i2ctest.IO{Addr: 0x76, W: []byte{0xf2}, R: []byte{0x00}}
		b.Ops = slices.Concat(bme280Ops(0x76), bme280Measure(0x76), []i2ctest.IO{forgot}, bme280Ops(0x76), bme280Measure(0x76))
		x := onI2C(t, drivers.Spec{Sensor: "bme280"}, b)
		values := map[string]float64{"temperature_C": 25.08, "pressure_Pa": 100653.27, "humidity_rH": humidity(0x6b50)}
		want(t, x, values)
		wantFault(t, x, "it was without power")
		want(t, x, values)
		done(t, b)
	})
}

func TestAnotherChipAnswers(t *testing.T) {
	b := newBus(0x76)
	b.Ops = []i2ctest.IO{
		{Addr: 0x76, W: []byte{0xd0}, R: []byte{0x58}},
		{Addr: 0x76, W: []byte{0x88}, R: exampleCalibration},
		{Addr: 0x76, W: []byte{0xf4, 0x6c, 0xf5, 0xa0, 0xf4, 0x6c}},
	}
	wantFault(t, onI2C(t, drivers.Spec{Sensor: "bme280"}, b), "a bmp280 answers there, not a bme280: write sensor: bmp280")
	b.Ops, b.Count = []i2ctest.IO{{Addr: 0x76, W: []byte{0xd0}, R: []byte{0x42}}}, 0
	wantFault(t, onI2C(t, drivers.Spec{Sensor: "bme280"}, b), "unexpected chip id 42")
}

// A bus that hangs at ones in the middle looks like a conversion without end.
func TestBusThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x76, 0x48)
		b.Ops = slices.Concat(bme280Ops(0x76), bme280Measure(0x76))
		b.hangs = len(b.Ops) - 3 // it is converting
		wantFault(t, onI2C(t, drivers.Spec{Sensor: "bme280"}, b), "it does not come to an end")
		wantFault(t, onI2C(t, drivers.Spec{Sensor: "bme280"}, b), "unexpected chip id ff")
		wantFault(t, onI2C(t, drivers.Spec{Sensor: "ads1115"}, b), "it does not keep its settings")
	})
}

func ads1115Ops(mux byte, busy int, raw uint16) []i2ctest.IO {
	config := []byte{0x80 | mux<<4 | 0x01, 0x83} // range 6.144 V, single-shot, 128 SPS, no comparator
	ops := []i2ctest.IO{{Addr: 0x48, W: append([]byte{0x01}, config...)}}
	for range busy {
		ops = append(ops, i2ctest.IO{Addr: 0x48, W: []byte{0x01}, R: []byte{config[0] &^ 0x80, config[1]}})
	}
	return append(ops,
		i2ctest.IO{Addr: 0x48, W: []byte{0x01}, R: config},
		i2ctest.IO{Addr: 0x48, W: []byte{0x00}, R: binary.BigEndian.AppendUint16(nil, raw)})
}

func TestADS1115(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(0x48)
		b.Ops = slices.Concat(ads1115Ops(4, 0, 0), ads1115Ops(5, 2, 16384), ads1115Ops(6, 0, 17600), ads1115Ops(7, 1, 0xffff))
		want(t, onI2C(t, drivers.Spec{Sensor: "ads1115"}, b), map[string]float64{"voltage0_V": 0, "voltage1_V": 3.072, "voltage2_V": 3.3, "voltage3_V": -0.0001875})
		done(t, b)

		b.Ops, b.Count = ads1115Ops(6, 3, 16384), 0
		want(t, onI2C(t, drivers.Spec{Sensor: "ads1115", Channel: new(2)}, b), map[string]float64{"voltage_V": 3.072})
		done(t, b)

		b.answer = []uint16{0x4a}
		wantFault(t, onI2C(t, drivers.Spec{Sensor: "ads1115"}, b), "nothing answers at address 0x48", "something does at 0x4a")
	})
}

// Two that share a converter wait for each other, or one would get the other's
// channel.
func TestSharedConverter(t *testing.T) {
	d := machine(t, map[string]string{"dev/i2c-1": "", "dev/i2c-2": ""})
	d.openI2C = func(int) (i2c.BusCloser, error) { return &bus{}, nil }
	open := func(bus string, channel int) *sensor {
		x, err := d.Sensor(drivers.Spec{Sensor: "ads1115", Bus: bus, Channel: &channel})
		if err != nil {
			t.Fatal(err)
		}
		return x.(*sensor)
	}
	if open("i2c-1", 0).shared != open("i2c-1", 1).shared {
		t.Error("two channels of one chip do not share it")
	}
	if open("i2c-1", 0).shared == open("i2c-2", 0).shared {
		t.Error("two chips are taken for one")
	}
}

// onSPI opens a sensor that hangs on a port.
func onSPI(t *testing.T, s drivers.Spec, port *spitest.Playback) drivers.Sensor {
	t.Helper()
	s.Name, s.Bus = "it", "spi0.1"
	d := machine(t, map[string]string{"dev/spidev0.1": ""})
	first := true
	d.openSPI = func(bus, device int) (spi.PortCloser, error) {
		if bus != 0 || device != 1 {
			t.Errorf("device %d.%d opened", bus, device)
		}
		if first { // to see that it may be used
			first = false
			return &spitest.Playback{}, nil
		}
		port.Initialized = false
		return port, nil
	}
	x, err := d.Sensor(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestMCP3008(t *testing.T) {
	var ops []conntest.IO
	for i := range 8 {
		code := i * 128
		ops = append(ops, conntest.IO{W: []byte{1, 0x80 | byte(i)<<4, 0}, R: []byte{0xff, 0xf8 | byte(code>>8), byte(code)}})
	}
	port := &spitest.Playback{Playback: conntest.Playback{Ops: ops, DontPanic: true}}
	all := map[string]float64{}
	for i, k := range []string{"voltage0_V", "voltage1_V", "voltage2_V", "voltage3_V", "voltage4_V", "voltage5_V", "voltage6_V", "voltage7_V"} {
		all[k] = 3.3 * float64(i) / 8
	}
	want(t, onSPI(t, drivers.Spec{Sensor: "mcp3008"}, port), all)

	port = &spitest.Playback{Playback: conntest.Playback{Ops: ops[5:6], DontPanic: true}}
	want(t, onSPI(t, drivers.Spec{Sensor: "mcp3008", Channel: new(5), Reference: 5}, port), map[string]float64{"voltage_V": 3.125})

	port = &spitest.Playback{Playback: conntest.Playback{Ops: []conntest.IO{{W: []byte{1, 0x80, 0}, R: []byte{0xff, 0xff, 0xff}}}, DontPanic: true}}
	wantFault(t, onSPI(t, drivers.Spec{Sensor: "mcp3008", Channel: new(0)}, port), "nothing is on the bus")
}

// spiFast checks that the clock is one that the chip takes.
type spiFast struct {
	spi.PortCloser
	f    physic.Frequency
	mode spi.Mode
}

func (p *spiFast) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	p.f, p.mode = f, mode
	return p.PortCloser.Connect(f, mode, bits)
}

func TestMCP3008Clock(t *testing.T) {
	d := machine(t, map[string]string{"dev/spidev0.0": ""})
	port := &spiFast{PortCloser: &spitest.Playback{Playback: conntest.Playback{DontPanic: true}}}
	d.openSPI = func(int, int) (spi.PortCloser, error) { return port, nil }
	typ, _ := drivers.TypeOf(drivers.Spec{Sensor: "mcp3008"})
	if _, _, err := d.mcp3008(drivers.Spec{Sensor: "mcp3008", Bus: "spi0.0"}, typ); err != nil {
		t.Fatal(err)
	}
	if port.f > 1350*physic.KiloHertz || port.mode != spi.Mode0 {
		t.Errorf("connected with %s in %s", port.f, port.mode)
	}
}

func TestBuses(t *testing.T) {
	d := machine(t, map[string]string{
		"dev/i2c-1": "", "dev/i2c-10": "", "dev/i2c-2": "", "dev/spidev0.0": "", "dev/spidev10.1": "", "dev/i2c-x": "",
		"sys/bus/i2c/devices/i2c-5/name": "late",
	})
	tests := []struct {
		bus, path, want string
	}{
		{"i2c-1", "dev/i2c-1", ""},
		{"spi0.0", "dev/spidev0.0", ""},
		{"i2c-3", "", "no bus i2c-3: there are i2c-1, i2c-2, i2c-10"},
		{"i2c-5", "", "load the module i2c-dev"},
		{"spi0.1", "", "no bus spi0.1: there are spi0.0, spi10.1"},
		{"i2c-../x", "", "no name of a bus"},
	}
	for _, tt := range tests {
		path, err := d.Bus(tt.bus)
		if tt.want == "" && (err != nil || path != d.path(tt.path)) {
			t.Errorf("%s: got %s, %v", tt.bus, path, err)
		}
		if tt.want != "" && (!errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.bus, err, tt.want)
		}
	}
	bare := machine(t, nil)
	for bus, hint := range map[string]string{"i2c-1": "dtparam=i2c_arm=on", "spi0.0": "dtparam=spi=on"} {
		if _, err := bare.Bus(bus); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: got %v, want %q in it", bus, err, hint)
		}
	}
	for _, s := range []drivers.Spec{{Sensor: "bme280", Bus: "i2c-1"}, {Sensor: "mcp3008", Bus: "spi0.0"}, {Sensor: "ds18b20", ID: "28-000000000001"}} {
		if _, err := bare.Sensor(s); !errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), "config.txt") {
			t.Errorf("%s: got %v, want what to write into config.txt", s.Sensor, err)
		}
	}
}

func TestPermission(t *testing.T) {
	err := fault(errors.New("sysfs-i2c: are you member of group 'plugdev'? open /dev/i2c-1: permission denied"))
	if !errors.Is(err, drivers.ErrFault) || !strings.Contains(err.Error(), "groups gpio, i2c and spi") {
		t.Errorf("got %v", err)
	}
}
