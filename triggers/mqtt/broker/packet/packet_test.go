package packet_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/edgefn/edgefn/triggers/mqtt/broker/packet"
)

func read(version byte, data []byte) (packets.Packet, error) {
	return packet.Read(bufio.NewReader(bytes.NewReader(data)), version, 1<<20)
}

// What mochi-mqtt's codec takes and this package does not, or the other way.
func TestReadIsStricterThanTheCodec(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version byte
		data    []byte
		code    byte // 0: taken
		number  string
	}{
		{"property runs into the payload", 5, []byte("\x30\x09\x00\x01x\x03\x02\x00\x00\x00\x05"), 0x81, ""},
		{"properties longer than the packet", 5, []byte("\x30\x04\x00\x01x\x05"), 0x81, ""},
		{"no properties at all", 5, []byte("\x30\x03\x00\x01x"), 0x81, ""},
		{"unknown property", 5, []byte("\x30\x06\x00\x01x\x02\x7f\x01"), 0x81, ""},
		{"property of a larger number", 5, []byte("\x30\x07\x00\x01x\x03\x80\x01\x01"), 0x81, ""},
		{"property twice", 5, []byte("\x30\x08\x00\x01x\x04\x01\x00\x01\x00"), 0x82, ""},
		{"user property twice", 5, []byte("\x30\x0e\x00\x01x\x0a\x26\x00\x00\x00\x00\x26\x00\x00\x00\x00"), 0, ""},
		{"padded length of properties", 5, []byte("\x30\x05\x00\x01x\x80\x00"), 0x81, "MQTT-1.5.5-1"},
		{"padded length", 5, []byte("\xc0\x80\x00"), 0x81, "MQTT-1.5.5-1"},
		{"padded length before MQTT 5", 4, []byte("\xc0\x80\x00"), 0, ""},
		{"length of five bytes", 4, []byte("\xc0\x80\x80\x80\x80\x00"), 0x81, ""},
		{"PINGREQ with a body", 4, []byte("\xc0\x01x"), 0x81, ""},
		{"PUBACK with a reason before MQTT 5", 4, []byte("\x40\x03\x00\x01\x00"), 0x81, ""},
		{"PUBACK with bytes after its properties", 5, []byte("\x40\x05\x00\x01\x00\x00x"), 0x81, ""},
		{"DISCONNECT with a body before MQTT 5", 4, []byte("\xe0\x01\x04"), 0x81, ""},
		{"DISCONNECT with a server reference", 5, []byte("\xe0\x06\x00\x04\x1c\x00\x01x"), 0x82, ""},
		{"AUTH before MQTT 5", 4, []byte("\xf0\x00"), 0x81, ""},
		{"type 0", 5, []byte("\x00\x00"), 0x81, ""},
		{"user name that is no UTF-8", 0, []byte("\x10\x10\x00\x04MQTT\x04\x82\x00\x00\x00\x00\x00\x02\xff\xfe"), 0x81, "MQTT-3.1.3-11"},
		{"CONNECT of version 6 in a form of its own", 0, []byte("\x10\x07\x00\x04MQTT\x06"), 0x84, "MQTT-3.1.2-2"},
		{"CONNECT of another protocol", 0, []byte("\x10\x07\x00\x04HTTP\x04"), 0x82, "MQTT-3.1.2-1"},
		{"CONNECT with two wills", 0, []byte("\x10\x17\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x01w\x00\x01x\x00\x01w\x00\x00\x01"), 0x81, "MQTT-3.1.2-18"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := read(tc.version, tc.data)
			var pe *packet.Error
			switch {
			case tc.code == 0 && err != nil:
				t.Errorf("not taken: %v", err)
			case tc.code != 0 && !errors.As(err, &pe):
				t.Errorf("got %v, want code %#x", err, tc.code)
			case tc.code != 0 && (pe.Code != tc.code || pe.Number != tc.number):
				t.Errorf("got code %#x of %q (%v), want %#x of %q", pe.Code, pe.Number, err, tc.code, tc.number)
			}
		})
	}
	pk, err := read(packet.V5, []byte{0xe0, 1, 4})
	if err != nil || pk.ReasonCode != 4 {
		t.Errorf("DISCONNECT of one byte has code %#x (%v), want 4", pk.ReasonCode, err)
	}
}

// A packet that ends early is the connection's error, and a body that ends
// early the packet's.
func TestReadOfCutPackets(t *testing.T) {
	for version, whole := range map[byte][]byte{
		0: []byte("\x10\x28\x00\x04MQTT\x05\xf6\x00\x05\x05\x11\x00\x00\x00\x05\x00\x01c\x02\x01\x00\x00\x01w\x00\x01x\x00\x01u\x00\x01p\x00\x00"),
		5: []byte("\x82\x0a\x00\x01\x02\x0b\x05\x00\x01x\x01\x00"),
		4: []byte("\x32\x08\x00\x01x\x00\x01yyy"),
	} {
		for n := 1; n < int(whole[1])+2 && n < len(whole); n++ {
			if _, err := read(version, whole[:n]); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%x: %v, want the end of the input", whole[:n], err)
			}
		}
	}
	connect := "\x00\x04MQTT\x05\xf6\x00\x05\x05\x11\x00\x00\x00\x05\x00\x01c\x02\x01\x00\x00\x01w\x00\x01x\x00\x01u\x00\x01p"
	for n := range len(connect) {
		_, err := read(0, append([]byte{0x10, byte(n)}, connect[:n]...))
		if pe := (*packet.Error)(nil); !errors.As(err, &pe) {
			t.Errorf("body %q: %v, want a malformed packet", connect[:n], err)
		}
	}
	if _, err := read(0, append([]byte{0x10, byte(len(connect))}, connect...)); err != nil {
		t.Errorf("whole CONNECT: %v", err)
	}
}

func TestRequirementsAreComplete(t *testing.T) {
	for _, r := range packet.Requirements() {
		if r.What == "" || r.By == "" || r.Code.Code < 0x80 || (r.V5 == "" && r.V311 == "") {
			t.Errorf("%+v lacks something", r)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04auto", "\x10\x1a\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01c\x00\x00\x01w\x00\x01x",
		"\x30\x07\x00\x01x\x03\x23\x00\x01", "\x32\x06\x00\x01x\x00\x01y", "\x82\x09\x00\x01\x02\x0b\x05\x00\x01x", "\xa2\x05\x00\x01\x00\x01x",
		"\x40\x02\x00\x01", "\x62\x04\x00\x01\x92\x00", "\xc0\x00", "\xe0\x01\x04", "\xf0\x00",
	} {
		for _, version := range []byte{0, 4, 5} {
			f.Add(version, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, version byte, data []byte) {
		if version != 0 {
			version = packet.V31 + version%3
		}
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			pk, err := packet.Read(r, version, 1<<16)
			var pe *packet.Error
			switch {
			case errors.As(err, &pe):
				if pe.Code < 0x80 || pe.Text == "" {
					t.Errorf("error %#x %q is none", pe.Code, pe.Text)
				}
				return
			case err != nil:
				return
			}
			if len(pk.Payload)+len(pk.Filters) > len(data) {
				t.Errorf("%d bytes became %d of payload and %d filters", len(data), len(pk.Payload), len(pk.Filters))
			}
			if pk.FixedHeader.Type == packets.Connect {
				if v := pk.ProtocolVersion; v < packet.V31 || v > packet.V5 {
					t.Errorf("CONNECT of version %d was taken", v)
				}
				version = pk.ProtocolVersion
			}
		}
	})
}
