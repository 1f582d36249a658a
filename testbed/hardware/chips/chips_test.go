package chips_test

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/onewire"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/bmxx80"
	"periph.io/x/devices/v3/ds18b20"
	"periph.io/x/devices/v3/ds248x"

	"github.com/edgefn/edgefn/testbed/hardware/chips"
)

const serial = "0000075f1a2b"

var errNak = errors.New("no acknowledgement")

// wired lets periph's drivers speak to a bus.
type wired struct{ bus *chips.Bus }

var _ i2c.Bus = wired{}

func (w wired) String() string                  { return "emulated" }
func (w wired) SetSpeed(physic.Frequency) error { return nil }

func (w wired) Tx(address uint16, out, in []byte) error {
	if len(out) > 0 && !w.bus.Write(address, out) {
		return errNak
	}
	if len(in) > 0 && !w.bus.Read(address, in) {
		return errNak
	}
	return nil
}

func TestBME280ReadsWhatIsSet(t *testing.T) {
	for _, tt := range []struct{ celsius, humidity, pascal float64 }{
		{21, 45, 101325},
		{31.5, 80, 98000},
		{-20, 20, 85000},
		{-39.9, 50, 101325},
		{84, 1, 30500},
		{0, 99, 109000},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			s := chips.NewBME280()
			for quantity, value := range map[string]float64{"temperature": tt.celsius, "humidity": tt.humidity, "pressure": tt.pascal} {
				if err := s.Set(quantity, value); err != nil {
					t.Fatal(err)
				}
			}
			var bus chips.Bus
			bus.Add(0x76, s)
			e := sense(t, wired{&bus})
			if got := e.Temperature.Celsius(); math.Abs(got-tt.celsius) > 0.02 {
				t.Errorf("temperature %v °C, want %v", got, tt.celsius)
			}
			if got := float64(e.Humidity) / float64(physic.PercentRH); math.Abs(got-tt.humidity) > 0.1 {
				t.Errorf("humidity %v %%rH, want %v", got, tt.humidity)
			}
			if got := float64(e.Pressure) / float64(physic.Pascal); math.Abs(got-tt.pascal) > 10 {
				t.Errorf("pressure %v Pa, want %v", got, tt.pascal)
			}
		})
	}
}

func TestBME280RefusesWhatItCannotMeasure(t *testing.T) {
	s := chips.NewBME280()
	for quantity, value := range map[string]float64{"temperature": 86, "humidity": -1, "pressure": 0, "light": 1} {
		if s.Set(quantity, value) == nil {
			t.Errorf("%s %v is accepted", quantity, value)
		}
	}
}

func TestBME280Unplugged(t *testing.T) {
	var bus chips.Bus
	bus.Add(0x76, chips.NewBME280())
	dev, err := bmxx80.NewI2C(wired{&bus}, 0x76, &bmxx80.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, &bus, chips.Unplugged)
	var e physic.Env
	if err := dev.Sense(&e); err == nil {
		t.Fatalf("an unplugged sensor reads %v", e)
	}
	connect(t, &bus, chips.Plugged)
	if e := sense(t, wired{&bus}); math.Abs(e.Temperature.Celsius()-21) > 0.02 {
		t.Errorf("plugged in again it reads %v", e.Temperature)
	}
}

// A sensor that was without power has forgotten its settings: a driver that
// does not notice reads the humidity of a sensor that does not measure it.
func TestBME280ForgetsItsSettings(t *testing.T) {
	var bus chips.Bus
	bus.Add(0x76, chips.NewBME280())
	dev, err := bmxx80.NewI2C(wired{&bus}, 0x76, &bmxx80.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	before := sense(t, wired{&bus})
	connect(t, &bus, chips.Unplugged)
	connect(t, &bus, chips.Plugged)
	var after physic.Env
	if err := dev.Sense(&after); err != nil {
		t.Fatal(err)
	}
	if after.Humidity == before.Humidity {
		t.Errorf("humidity still reads %v", after.Humidity)
	}
}

func TestBME280Garbled(t *testing.T) {
	var bus chips.Bus
	bus.Add(0x76, chips.NewBME280())
	connect(t, &bus, chips.Garbled)
	if _, err := bmxx80.NewI2C(wired{&bus}, 0x76, &bmxx80.DefaultOpts); err == nil {
		t.Error("a driver finds its chip in nothing but ones")
	}
}

func TestBusHasNobodyElsewhere(t *testing.T) {
	var bus chips.Bus
	if bus.Read(0x76, make([]byte, 1)) || bus.Write(0x76, []byte{0}) {
		t.Error("an empty bus acknowledges")
	}
	if bus.Connect(0x76, chips.Plugged) == nil {
		t.Error("what is not there is plugged in")
	}
}

func sense(t *testing.T, bus i2c.Bus) physic.Env {
	t.Helper()
	dev, err := bmxx80.NewI2C(bus, 0x76, &bmxx80.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	var e physic.Env
	if err := dev.Sense(&e); err != nil {
		t.Fatal(err)
	}
	return e
}

func connect(t *testing.T, bus *chips.Bus, c chips.Contact) {
	t.Helper()
	if err := bus.Connect(0x76, c); err != nil {
		t.Fatal(err)
	}
}

// thermometers is a 1-wire bus of periph's behind the emulated bridge.
func thermometers(t *testing.T, serials ...string) (onewire.Bus, []*chips.DS18B20) {
	t.Helper()
	var devices []*chips.DS18B20
	var wires []chips.Wire
	for _, s := range serials {
		d, err := chips.NewDS18B20(s)
		if err != nil {
			t.Fatal(err)
		}
		devices, wires = append(devices, d), append(wires, d)
	}
	var bus chips.Bus
	bus.Add(0x18, chips.NewDS2482(wires...))
	w, err := ds248x.New(wired{&bus}, 0x18, &ds248x.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	return w, devices
}

func TestDS18B20ReadsWhatIsSet(t *testing.T) {
	t.Parallel()
	wire, devices := thermometers(t, serial)
	found, err := wire.Search(false)
	if err != nil || len(found) != 1 {
		t.Fatalf("found %x, %v", found, err)
	}
	if got, want := fmt.Sprintf("%x", uint64(found[0])>>8&0xffffffffffff), "75f1a2b"; got != want {
		t.Errorf("serial number %s, want %s", got, want)
	}
	dev, err := ds18b20.New(wire, found[0], 12)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []float64{21, -10.5, 0.0625, 124.9375} {
		if err := devices[0].Set("temperature", want); err != nil {
			t.Fatal(err)
		}
		var e physic.Env
		if err := dev.Sense(&e); err != nil {
			t.Fatal(err)
		}
		if got := e.Temperature.Celsius(); math.Abs(got-want) > 0.001 {
			t.Errorf("temperature %v °C, want %v", got, want)
		}
	}
}

func TestDS18B20SearchFindsAll(t *testing.T) {
	t.Parallel()
	serials := []string{serial, "0123456789ab", "fedcba987654", "0000075f1a2c"}
	wire, devices := thermometers(t, serials...)
	found, err := wire.Search(false)
	if err != nil || len(found) != len(serials) {
		t.Fatalf("found %x, %v", found, err)
	}
	devices[1].Connect(chips.Unplugged)
	if found, err = wire.Search(false); err != nil || len(found) != len(serials)-1 {
		t.Fatalf("found %x, %v after one was unplugged", found, err)
	}
}

func TestDS18B20Unplugged(t *testing.T) {
	t.Parallel()
	wire, devices := thermometers(t, serial)
	found, err := wire.Search(false)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := ds18b20.New(wire, found[0], 12)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []chips.Contact{chips.Unplugged, chips.Garbled} {
		devices[0].Connect(c)
		if temperature, err := dev.LastTemp(); err == nil {
			t.Errorf("contact %d: reads %v", c, temperature)
		}
	}
	devices[0].Connect(chips.Unplugged)
	devices[0].Connect(chips.Plugged)
	if temperature, err := dev.LastTemp(); err != nil || temperature.Celsius() != 85 {
		t.Errorf("reads %v, %v before its first conversion, want 85 °C", temperature, err)
	}
	var e physic.Env
	if err := dev.Sense(&e); err != nil || e.Temperature.Celsius() != 21 {
		t.Errorf("plugged in again it reads %v, %v", e.Temperature, err)
	}
}

func TestDS18B20Serial(t *testing.T) {
	for _, s := range []string{"", "0000075f1a2", "0000075f1a2bc", "0000075f1a2x"} {
		if _, err := chips.NewDS18B20(s); err == nil {
			t.Errorf("serial number %q is accepted", s)
		}
	}
}
