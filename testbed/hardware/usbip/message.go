package usbip

import (
	"encoding/binary"
	"fmt"
	"io"
)

// USB/IP commands, Documentation/usb/usbip_protocol.rst of the kernel.
const (
	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4
)

// headerSize is that of every USB/IP message: 20 bytes that all have, and 28
// of the command.
const headerSize = 48

// maxTransfer bounds what a host may announce; a control transfer's length is
// 16 bits.
const maxTransfer = 1 << 16

// request is what the host asks for: a control transfer, or that an earlier
// one be forgotten.
type request struct {
	command uint32
	number  uint32
	setup   setup
	in      bool   // the device sends
	length  int    // bytes that the host gives, or has room for
	data    []byte // what the host gives
}

// setup is the packet that begins a control transfer, USB 2.0, section 9.3.
type setup struct {
	kind    byte
	request byte
	value   uint16
	index   uint16
	length  uint16
}

// readRequest reads one message. io.EOF means that the kernel has let go.
func readRequest(r io.Reader) (request, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return request{}, err
	}
	be, le := binary.BigEndian, binary.LittleEndian
	q := request{command: be.Uint32(h[0:]), number: be.Uint32(h[4:]), in: be.Uint32(h[12:]) == 1}
	switch q.command {
	case cmdUnlink:
		return q, nil
	case cmdSubmit:
	default:
		return request{}, fmt.Errorf("usbip command %d is not known", q.command)
	}
	s := h[40:]
	q.setup = setup{s[0], s[1], le.Uint16(s[2:]), le.Uint16(s[4:]), le.Uint16(s[6:])}
	length := be.Uint32(h[24:])
	if length > maxTransfer {
		return request{}, fmt.Errorf("usbip transfer of %d bytes is over %d", length, maxTransfer)
	}
	q.length = int(length)
	if q.in || q.length == 0 {
		return q, nil
	}
	q.data = make([]byte, q.length)
	_, err := io.ReadFull(r, q.data)
	return q, err
}

// stall is the status of a transfer that the device refuses, -EPIPE.
const stall = -32

// reply encodes the answer to a request: what the device sends, no more than
// the host has room for, and its status.
func (q request) reply(data []byte, status int32) []byte {
	b := make([]byte, headerSize, headerSize+len(data))
	be := binary.BigEndian
	be.PutUint32(b[4:], q.number)
	if q.command == cmdUnlink { // it was answered before: there is nothing to unlink
		be.PutUint32(b, retUnlink)
		return b
	}
	be.PutUint32(b, retSubmit)
	be.PutUint32(b[20:], uint32(status))
	switch {
	case status != 0:
	case q.in:
		data = data[:min(len(data), q.length)]
		be.PutUint32(b[24:], uint32(len(data)))
		b = append(b, data...)
	default:
		be.PutUint32(b[24:], uint32(q.length))
	}
	return b
}
