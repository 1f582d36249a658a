package chips

import (
	"encoding/hex"
	"fmt"
	"math"
	"sync"
)

// ROM and function commands, DS18B20 data sheet, "ROM commands" and "Function
// commands".
const (
	romSearch      = 0xf0
	romRead        = 0x33
	romMatch       = 0x55
	romSkip        = 0xcc
	fnConvert      = 0x44
	fnWriteScratch = 0x4e
	fnReadScratch  = 0xbe
	fnCopyScratch  = 0x48
	fnRecall       = 0xb8
	fnReadPower    = 0xb4
)

const familyDS18B20 = 0x28

// DS18B20 is Maxim's 1-wire thermometer, with power of its own. A conversion
// is done at once.
type DS18B20 struct {
	rom     [8]byte
	scratch [8]byte         // without its check sum
	eeprom  [3]byte         // alarm limits and configuration
	slot    func(bool) bool // what the next time slot does
	mu      sync.Mutex      // of the following
	celsius float64         // what is there to be measured
	contact Contact         // one that is Unplugged ignores the bus
	powered bool            // was plugged in at the last reset of the bus
}

// NewDS18B20 returns a thermometer at 21 °C. Its serial number is the part of
// the kernel's name of it, 28-SERIAL, in hexadecimal.
func NewDS18B20(serial string) (*DS18B20, error) {
	b, err := hex.DecodeString(serial)
	if err != nil || len(b) != 6 {
		return nil, fmt.Errorf("a DS18B20's serial number has 12 hexadecimal digits, not %q", serial)
	}
	d := &DS18B20{celsius: 21, eeprom: [3]byte{75, 70, 0x7f}, slot: ignore}
	d.rom[0] = familyDS18B20
	for i := range b { // the most significant comes first in the name, and last on the bus
		d.rom[1+i] = b[5-i]
	}
	d.rom[7] = crc8(d.rom[:7])
	return d, nil
}

// Set changes what there is to measure: temperature in °C. The next
// conversion finds it.
func (d *DS18B20) Set(quantity string, value float64) error {
	if quantity != "temperature" {
		return fmt.Errorf("a DS18B20 measures temperature, not %q", quantity)
	}
	if value < -55 || value > 125 {
		return fmt.Errorf("a DS18B20 measures from -55 to 125 °C, not %g", value)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.celsius = value
	return nil
}

// Connect changes how the thermometer is connected. One that comes back from
// being unplugged has been without power, and reads 85 °C until it converts.
func (d *DS18B20) Connect(c Contact) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.contact = c
	if c == Unplugged {
		d.powered = false
	}
}

// Present implements Wire.
func (d *DS18B20) Present() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.contact == Unplugged {
		d.slot = ignore
		return false
	}
	if !d.powered {
		d.powered = true
		d.scratch = [8]byte{0x50, 0x05, d.eeprom[0], d.eeprom[1], d.eeprom[2], 0xff, 0x0c, 0x10}
	}
	d.receive(1, func(command []byte) { d.romCommand(command[0]) })
	return true
}

// Slot implements Wire.
func (d *DS18B20) Slot(master bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.contact {
	case Unplugged:
		return true
	case Garbled:
		d.slot(master)
		return true
	default:
		return d.slot(master)
	}
}

// ignore leaves the bus alone, which reads as ones.
func ignore(bool) bool { return true }

func (d *DS18B20) romCommand(command byte) {
	d.slot = ignore
	switch command {
	case romSearch:
		d.search(0)
	case romRead:
		d.send(d.rom[:])
	case romSkip:
		d.function()
	case romMatch:
		d.receive(8, func(rom []byte) {
			d.slot = ignore
			if [8]byte(rom) == d.rom {
				d.function()
			}
		})
	}
}

// search is the device's part in a search: its bit, the complement, and it
// drops out where the master takes the other direction.
func (d *DS18B20) search(n int) {
	if n == 64 {
		d.slot = ignore
		return
	}
	bit := bitOf(d.rom[:], n)
	d.slot = func(bool) bool {
		d.slot = func(bool) bool {
			d.slot = func(direction bool) bool {
				d.slot = ignore
				if direction == bit {
					d.search(n + 1)
				}
				return true
			}
			return !bit
		}
		return bit
	}
}

func (d *DS18B20) function() {
	d.receive(1, func(command []byte) {
		d.slot = ignore // which also says: conversion done, powered by a line of its own
		switch command[0] {
		case fnConvert:
			d.convert()
		case fnReadScratch:
			d.send(append(d.scratch[:], crc8(d.scratch[:])))
		case fnWriteScratch:
			d.receive(3, func(p []byte) {
				copy(d.scratch[2:], p)
				d.slot = ignore
			})
		case fnCopyScratch:
			copy(d.eeprom[:], d.scratch[2:])
		case fnRecall:
			copy(d.scratch[2:], d.eeprom[:])
		case fnReadPower:
		}
	})
}

// convert measures with the resolution that the configuration asks for, 9 to
// 12 bits; bits below it are zero here (undefined in the data sheet).
func (d *DS18B20) convert() {
	raw := int16(math.Round(d.celsius * 16))
	raw &^= 1<<(3-d.scratch[4]>>5&3) - 1
	d.scratch[0], d.scratch[1] = byte(raw), byte(raw>>8)
}

// receive collects n bytes, least significant bit first, and hands them over.
func (d *DS18B20) receive(n int, then func([]byte)) {
	p, bits := make([]byte, n), 0
	d.slot = func(master bool) bool {
		if master {
			p[bits/8] |= 1 << (bits % 8)
		}
		if bits++; bits == 8*n {
			then(p)
		}
		return true
	}
}

// send answers read slots with p, and with ones after it.
func (d *DS18B20) send(p []byte) {
	bits := 0
	d.slot = func(bool) bool {
		bit := bitOf(p, bits)
		if bits++; bits == 8*len(p) {
			d.slot = ignore
		}
		return bit
	}
}

func bitOf(p []byte, n int) bool { return p[n/8]>>(n%8)&1 == 1 }

// crc8 is the 1-wire bus's check sum, x^8 + x^5 + x^4 + 1, application note 27.
func crc8(p []byte) byte {
	var crc byte
	for _, b := range p {
		crc ^= b
		for range 8 {
			carry := crc & 1
			crc >>= 1
			if carry == 1 {
				crc ^= 0x8c
			}
		}
	}
	return crc
}
