package usbip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// submit encodes what the kernel sends for a control transfer.
func submit(number uint32, in bool, s setup, data []byte) []byte {
	b := make([]byte, headerSize)
	be, le := binary.BigEndian, binary.LittleEndian
	be.PutUint32(b, cmdSubmit)
	be.PutUint32(b[4:], number)
	length := uint32(len(data))
	if in {
		be.PutUint32(b[12:], 1)
		length = uint32(s.length)
	}
	be.PutUint32(b[24:], length)
	b[40], b[41] = s.kind, s.request
	le.PutUint16(b[42:], s.value)
	le.PutUint16(b[44:], s.index)
	le.PutUint16(b[46:], s.length)
	return append(b, data...)
}

// bus has one device at 0x76 that says back what it was told.
type bus struct{ told []byte }

func (b *bus) Write(address uint16, p []byte) bool {
	b.told = bytes.Clone(p)
	return address == 0x76
}

func (b *bus) Read(address uint16, p []byte) bool {
	copy(p, b.told)
	return address == 0x76
}

func TestAdapter(t *testing.T) {
	const vendorIn, vendorOut = 0xc0, 0x40
	kernel, device := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- (&adapter{bus: &bus{}}).serve(device)
		device.Close()
	}()
	number := uint32(0)
	transfer := func(in bool, s setup, data []byte) (status int32, got []byte) {
		t.Helper()
		number++
		if _, err := kernel.Write(submit(number, in, s, data)); err != nil {
			t.Fatal(err)
		}
		h := make([]byte, headerSize)
		if _, err := io.ReadFull(kernel, h); err != nil {
			t.Fatal(err)
		}
		be := binary.BigEndian
		if got := be.Uint32(h); got != retSubmit {
			t.Fatalf("command %d, want %d", got, retSubmit)
		}
		if got := be.Uint32(h[4:]); got != number {
			t.Fatalf("number %d, want %d", got, number)
		}
		if in {
			got = make([]byte, be.Uint32(h[24:]))
			if _, err := io.ReadFull(kernel, got); err != nil {
				t.Fatal(err)
			}
		}
		return int32(be.Uint32(h[20:])), got
	}
	for _, tt := range []struct {
		name   string
		in     bool
		setup  setup
		data   []byte
		status int32
		want   []byte
	}{
		{"device descriptor, cut to what there is room for", true, setup{0x80, getDescriptor, descriptorDevice << 8, 0, 8}, nil, 0, deviceDescriptor[:8]},
		{"configuration", true, setup{0x80, getDescriptor, descriptorConfiguration << 8, 0, 255}, nil, 0, configurationDescriptor},
		{"string", true, setup{0x80, getDescriptor, descriptorString<<8 | 2, 0, 255}, nil, 0, stringDescriptor("i2c-tiny-usb")},
		{"no such string", true, setup{0x80, getDescriptor, descriptorString<<8 | 9, 0, 255}, nil, stall, []byte{}},
		{"set the configuration", false, setup{0, 9, 1, 0, 0}, nil, 0, nil},
		{"functionality", true, setup{vendorIn, tinyFunctions, 0, 0, 4}, nil, 0, []byte{0x01, 0x00, 0xfe, 0x0e}},
		{"write", false, setup{vendorOut, tinyIO | 1, 0, 0x76, 2}, []byte{0xd0, 0x01}, 0, nil},
		{"is acknowledged", true, setup{vendorIn, tinyStatus, 0, 0, 1}, nil, 0, []byte{tinyAck}},
		{"read", true, setup{vendorIn, tinyIO | 2, messageRead, 0x76, 2}, nil, 0, []byte{0xd0, 0x01}},
		{"nobody there", false, setup{vendorOut, tinyIO | 3, 0, 0x77, 1}, []byte{0}, 0, nil},
		{"is not", true, setup{vendorIn, tinyStatus, 0, 0, 1}, nil, 0, []byte{tinyNak}},
		{"unknown request", true, setup{vendorIn, 99, 0, 0, 1}, nil, stall, []byte{}},
	} {
		status, got := transfer(tt.in, tt.setup, tt.data)
		if status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, status, tt.status)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	kernel.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v, want EOF", err)
	}
}

func TestUnlink(t *testing.T) {
	b := make([]byte, headerSize)
	binary.BigEndian.PutUint32(b, cmdUnlink)
	binary.BigEndian.PutUint32(b[4:], 7)
	q, err := readRequest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	reply := q.reply(nil, 0)
	if got := binary.BigEndian.Uint32(reply); got != retUnlink || len(reply) != headerSize {
		t.Errorf("%d bytes, command %d", len(reply), got)
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add(submit(1, true, setup{0x80, getDescriptor, 0x100, 0, 18}, nil))
	f.Add(submit(2, false, setup{0x40, tinyIO, 0, 0x76, 2}, []byte{1, 2}))
	huge := submit(3, false, setup{}, nil)
	binary.BigEndian.PutUint32(huge[24:], 1<<31)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		a := adapter{bus: &bus{}}
		for {
			q, err := readRequest(in)
			if err != nil {
				return
			}
			if len(q.data) > maxTransfer {
				t.Fatalf("%d bytes in a request", len(q.data))
			}
			data, _ := a.control(q.setup, q.data)
			if r := q.reply(data, 0); len(r) > headerSize+q.length {
				t.Fatalf("%d bytes for a request of %d", len(r), q.length)
			}
		}
	})
}
