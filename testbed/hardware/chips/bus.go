package chips

import (
	"fmt"
	"sync"
)

// Device is a chip on an I2C bus. Each call is one message; false is a NAK.
// The bus calls one at a time.
type Device interface {
	Write(p []byte) bool
	Read(p []byte) bool
	// Reset brings the chip to its state after power-on.
	Reset()
}

// Contact is how a device is connected.
type Contact int

// The ways in which a device is connected, or is not.
const (
	Plugged   Contact = iota
	Unplugged         // no answer: a NAK on I2C, no presence on 1-wire
	Garbled           // answers, and every bit that it sends reads as one
)

// Bus is an I2C bus with devices on it. Its methods may be called at any time
// and from any goroutine.
type Bus struct {
	mu      sync.Mutex
	devices map[uint16]*socket // by 7-bit address
}

type socket struct {
	device  Device
	contact Contact
}

// Add puts a device on the bus, plugged in and reset.
func (b *Bus) Add(address uint16, d Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.devices == nil {
		b.devices = map[uint16]*socket{}
	}
	d.Reset()
	b.devices[address] = &socket{device: d}
}

// Connect changes how the device at an address is connected. One that comes
// back from being unplugged has been without power.
func (b *Bus) Connect(address uint16, c Contact) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.devices[address]
	if s == nil {
		return fmt.Errorf("no device has the address %#x", address)
	}
	if s.contact == Unplugged && c != Unplugged {
		s.device.Reset()
	}
	s.contact = c
	return nil
}

// Write carries a message to the device at an address; false is a NAK.
func (b *Bus) Write(address uint16, p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.devices[address]
	return s != nil && s.contact != Unplugged && s.device.Write(p)
}

// Read fills a message from the device at an address; false is a NAK.
func (b *Bus) Read(address uint16, p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.devices[address]
	if s == nil || s.contact == Unplugged || !s.device.Read(p) {
		return false
	}
	if s.contact == Garbled {
		for i := range p {
			p[i] = 0xff
		}
	}
	return true
}
