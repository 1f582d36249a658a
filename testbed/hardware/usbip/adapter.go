package usbip

import (
	"encoding/binary"
	"io"
)

// Bus carries the adapter's messages. False is a NAK.
type Bus interface {
	Write(address uint16, p []byte) bool
	Read(address uint16, p []byte) bool
}

// Requests of i2c-tiny-usb, drivers/i2c/busses/i2c-tiny-usb.c of the kernel.
const (
	tinyEcho      = 0
	tinyFunctions = 1
	tinySetDelay  = 2
	tinyStatus    = 3
	tinyIO        = 4 // to 7: with bits for the begin and the end of a transfer
	tinyIOLast    = 7

	tinyAck = 1
	tinyNak = 2

	messageRead = 1 // I2C_M_RD, in the value of a message
)

// functionality is what the adapter says it can do, include/uapi/linux/i2c.h:
// plain I2C, and the SMBus commands that the kernel makes of it (but not the
// quick one, which has no data).
const functionality = 0x00000001 | 0x0eff0000&^0x00010000

// Standard requests, USB 2.0, table 9-4.
const (
	getStatus        = 0
	getDescriptor    = 6
	getConfiguration = 8

	descriptorDevice        = 1
	descriptorConfiguration = 2
	descriptorString        = 3

	kindMask     = 0x60 // of a request: standard is 0
	kindStandard = 0
)

var (
	deviceDescriptor = []byte{
		18, descriptorDevice, 0x10, 0x01, // USB 1.1
		0xff, 0, 0, // a class of the vendor's
		8,                      // bytes in a packet of endpoint 0
		0x03, 0x04, 0x31, 0xc6, // 0403:c631, which the kernel's driver looks for
		0x05, 0x02, // the firmware's version
		1, 2, 0, // strings: manufacturer, product, no serial number
		1, // configurations
	}
	configurationDescriptor = []byte{
		9, descriptorConfiguration, 18, 0, 1, 1, 0, 0x80, 50, // one interface, 100 mA
		9, 4, 0, 0, 0, 0xff, 0, 0, 0, // which has no endpoint but 0
	}
	languages = []byte{4, descriptorString, 0x09, 0x04} // English
	strings   = map[byte]string{1: "edgefn testbed", 2: "i2c-tiny-usb"}
)

// adapter answers USB requests as an i2c-tiny-usb does. It is used by one
// goroutine.
type adapter struct {
	bus    Bus
	status byte // of the last message
}

// serve answers until the kernel lets go, which is io.EOF.
func (a *adapter) serve(rw io.ReadWriter) error {
	for {
		q, err := readRequest(rw)
		if err != nil {
			return err
		}
		var data []byte
		status := int32(0)
		if q.command == cmdSubmit {
			var ok bool
			if data, ok = a.control(q.setup, q.data); !ok {
				status = stall
			}
		}
		if _, err := rw.Write(q.reply(data, status)); err != nil {
			return err
		}
	}
}

// control is one control transfer; false refuses it.
func (a *adapter) control(s setup, out []byte) ([]byte, bool) {
	if s.kind&kindMask == kindStandard {
		return standard(s)
	}
	switch {
	case s.request == tinyEcho:
		return binary.LittleEndian.AppendUint16(nil, s.value), true
	case s.request == tinyFunctions:
		return binary.LittleEndian.AppendUint32(nil, functionality), true
	case s.request == tinySetDelay:
		return nil, true
	case s.request == tinyStatus:
		return []byte{a.status}, true
	case s.request >= tinyIO && s.request <= tinyIOLast:
		var in []byte
		var ok bool
		if s.value&messageRead != 0 {
			in = make([]byte, s.length)
			ok = a.bus.Read(s.index, in)
		} else {
			ok = a.bus.Write(s.index, out)
		}
		a.status = tinyAck
		if !ok {
			a.status = tinyNak
		}
		return in, true
	default:
		return nil, false
	}
}

// standard answers what every USB device is asked.
func standard(s setup) ([]byte, bool) {
	switch s.request {
	case getDescriptor:
		switch kind, index := byte(s.value>>8), byte(s.value); kind {
		case descriptorDevice:
			return deviceDescriptor, true
		case descriptorConfiguration:
			return configurationDescriptor, true
		case descriptorString:
			if index == 0 {
				return languages, true
			}
			text, ok := strings[index]
			return stringDescriptor(text), ok
		default:
			return nil, false
		}
	case getStatus:
		return []byte{0, 0}, true
	case getConfiguration:
		return []byte{1}, true
	default: // such as setting the one configuration that there is
		return nil, true
	}
}

func stringDescriptor(s string) []byte {
	b := []byte{byte(2 + 2*len(s)), descriptorString}
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return b
}
