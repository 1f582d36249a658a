package periph

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"periph.io/x/conn/v3/i2c/i2ctest"
	"periph.io/x/conn/v3/onewire"

	"github.com/edgefn/edgefn/drivers"
)

const (
	soilID  = "28-0000075f1a2b"
	w1Good  = "91 01 4b 46 7f ff 0c 10 25 : crc=25 YES\n91 01 4b 46 7f ff 0c 10 25 t=25062\n"
	w1Minus = "5e ff 4b 46 7f ff 02 10 7c : crc=7c YES\n5e ff 4b 46 7f ff 02 10 7c t=-10125\n"
)

func TestParseW1Slave(t *testing.T) {
	tests := []struct {
		name, text string
		want       float64
		fault      string
	}{
		{"good", w1Good, 25.062, ""},
		{"below zero", w1Minus, -10.125, ""},
		{"hot", "50 05 4b 46 7f ff 0f 10 00 : crc=00 YES\n50 05 4b 46 7f ff 0f 10 00 t=85000\n", 85, ""},
		{"just powered", "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n", 0, "85 degrees that it starts with"},
		{"checksum", "91 01 4b 46 7f ff 0c 10 24 : crc=25 NO\n91 01 4b 46 7f ff 0c 10 25 t=25062\n", 0, "checksum"},
		{"unplugged", "ff ff ff ff ff ff ff ff ff : crc=c9 NO\nff ff ff ff ff ff ff ff ff t=-62\n", 0, "checksum"},
		{"a short", "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n", 0, "short"},
		{"unplugged a moment ago", "", 0, "does not answer any more"},
		{"cut", "91 01 4b 46 7f ff 0c 10 25 : crc=25 YES\n", 0, "w1_therm gave"},
		{"too few bytes", "91 01 : crc=25 YES\n91 01 t=25062\n", 0, "w1_therm gave"},
		{"no number", "91 01 4b 46 7f ff 0c 10 25 : crc=25 YES\n91 01 4b 46 7f ff 0c 10 25 t=warm\n", 0, "w1_therm gave"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseW1Slave(tt.text)
			if tt.fault == "" && (err != nil || got != tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
			if tt.fault != "" && (!errors.Is(err, drivers.ErrFault) || !strings.Contains(err.Error(), tt.fault)) {
				t.Errorf("got %v, %v, want ErrFault with %q", got, err, tt.fault)
			}
		})
	}
}

// FuzzParseW1Slave: whatever the file holds, it is a temperature or a fault.
func FuzzParseW1Slave(f *testing.F) {
	f.Add(w1Good)
	f.Add(w1Minus)
	f.Add("t=:YES\nt=")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseW1Slave(text); err != nil && !errors.Is(err, drivers.ErrFault) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestKernelDS18B20(t *testing.T) {
	dir := "sys/bus/w1/devices/"
	tests := []struct {
		name  string
		files map[string]string
		want  float64
		fault string
	}{
		{"there", map[string]string{dir + soilID + "/w1_slave": w1Good}, 25.062, ""},
		{"not there", map[string]string{dir + "28-000000000001/w1_slave": w1Good}, 0, "nothing answers as " + soilID + " on the 1-wire bus: there are 28-000000000001"},
		{"nothing is", map[string]string{dir + "w1_bus_master1/x": ""}, 0, "it is empty"},
		{"no driver", map[string]string{dir + soilID + "/id": ""}, 0, "load the module w1_therm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := machine(t, tt.files).Sensor(drivers.Spec{Name: "soil", Sensor: "ds18b20", ID: soilID})
			if err != nil {
				t.Fatal(err)
			}
			if tt.fault != "" {
				wantFault(t, x, tt.fault)
				return
			}
			want(t, x, map[string]float64{"temperature_C": tt.want})
		})
	}
}

func TestRomOf(t *testing.T) {
	// The address of periph's own documentation of onewire.Address.
	rom, err := romOf("28-000001318252")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(rom >> (8 * i))
	}
	if b[0] != 0x28 || b[1] != 0x52 || b[2] != 0x82 || b[3] != 0x31 || !onewire.CheckCRC(b) {
		t.Errorf("got %x", b)
	}
	if got, err := romOf("28-00000e410e41"); err != nil || byte(got) != 0x28 {
		t.Errorf("got %x %v", got, err)
	}
	for _, id := range []string{"", "28", "28-", "xx-000000000001"} {
		if _, err := romOf(id); err == nil {
			t.Errorf("%q is taken", id)
		}
	}
}

// bridge records what a DS2482-100 is told for transfers on its 1-wire bus.
type bridge struct {
	ops     []i2ctest.IO
	present bool
}

func (b *bridge) op(r []byte, w ...byte) {
	b.ops = append(b.ops, i2ctest.IO{Addr: 0x18, W: w, R: r})
}

func (b *bridge) idle(status byte) { b.op([]byte{status}) }

func (b *bridge) start() {
	b.op(nil, 0xf0)
	b.op([]byte{0x18}, 0xe1, 0xf0)
	b.op([]byte{0x01}, 0xd2, 0xe1)
	b.op(nil, 0xe1, 0xb4) // its port configuration, taken for a DS2483's
	b.op(nil, 0xc3, 0x06, 0x26, 0x46, 0x66, 0x86)
}

// tx is a reset, bytes out and bytes in. strong powers the bus at the end.
func (b *bridge) tx(strong bool, w, r []byte) {
	b.op(nil, 0xb4)
	if !b.present {
		b.idle(0x00)
		return
	}
	b.idle(0x02)
	for i, c := range w {
		if strong && i == len(w)-1 {
			b.op(nil, 0xd2, 0xe1&0xbf|0x04)
		}
		b.op(nil, 0xa5, c)
		b.idle(0)
	}
	for _, c := range r {
		b.op([]byte{0}, 0x96)
		b.idle(0)
		b.op([]byte{c}, 0xe1, 0xe1)
	}
}

func scratch(raw uint16) []byte {
	s := []byte{byte(raw), byte(raw >> 8), 0x4b, 0x46, 0x7f, 0xff, 0x0c, 0x10}
	return append(s, onewire.CalcCRC(s))
}

func TestDS18B20BehindABridge(t *testing.T) {
	rom, err := romOf(soilID)
	if err != nil {
		t.Fatal(err)
	}
	match := []byte{0x55}
	for i := range 8 {
		match = append(match, byte(rom>>(8*i)))
	}
	command := func(c byte) []byte { return append(slices.Clone(match), c) }
	tests := []struct {
		name    string
		present bool
		reads   [][]byte // of the scratchpad
		want    float64
		fault   string
	}{
		{"good", true, [][]byte{scratch(0x0191), scratch(0x0191)}, 25.0625, ""},
		{"below zero", true, [][]byte{scratch(0x0191), scratch(0xff5e)}, -10.125, ""},
		{"hot", true, [][]byte{scratch(0x0550), scratch(0x054f), scratch(0x0550)}, 85, ""},
		{"lost its power", true, [][]byte{scratch(0x0550), scratch(0x0550)}, 0, "85 degrees that it starts with"},
		{"checksum", true, [][]byte{scratch(0x0191), append(scratch(0x0191)[:8], 0)}, 0, "incorrect scratchpad CRC"},
		{"another is there", true, [][]byte{slices.Repeat([]byte{0xff}, 9)}, 0, "did not respond"},
		{"nothing is there", false, [][]byte{nil}, 0, "no device present"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rec := bridge{present: tt.present}
				rec.start()
				rec.tx(false, command(0xbe), tt.reads[0]) // what resolution has it?
				for _, r := range tt.reads[1:] {
					rec.tx(true, command(0x44), nil)
					rec.tx(false, command(0xbe), r)
				}
				b := newBus(0x18)
				b.Ops = rec.ops
				x := onI2C(t, drivers.Spec{Sensor: "ds18b20", ID: soilID}, b)
				if len(tt.reads) > 2 {
					if _, err := x.Read(); err != nil {
						t.Fatal(err)
					}
				}
				if tt.fault != "" {
					wantFault(t, x, tt.fault)
				} else {
					want(t, x, map[string]float64{"temperature_C": tt.want})
				}
				done(t, b)
			})
		})
	}
	b := newBus()
	wantFault(t, onI2C(t, drivers.Spec{Sensor: "ds18b20", ID: soilID}, b), fmt.Sprintf("nothing answers at address %#02x", 0x18))
}
