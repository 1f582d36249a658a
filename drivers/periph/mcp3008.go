package periph

import (
	"errors"
	"fmt"
	"io"

	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"github.com/edgefn/edgefn/drivers"
)

const (
	// mcp3008Clock is below what the chip takes at its lowest supply, 1.35 MHz at
	// 2.7 V (DS21295D, 1.0).
	mcp3008Clock = physic.MegaHertz
	// mcp3008Reference is the supply of a Raspberry Pi's header.
	mcp3008Reference = 3.3
	mcp3008Channels  = 8
)

// mcp3008 prepares the channels of an MCP3008. periph has no driver of it.
func (d *Driver) mcp3008(s drivers.Spec, t drivers.SensorType) (reader, io.Closer, error) {
	p, err := d.spiPort(s.Bus)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Connect(mcp3008Clock, spi.Mode0, 8)
	if err != nil {
		return nil, nil, errors.Join(fault(err), p.Close())
	}
	reference := s.Reference
	if reference == 0 {
		reference = mcp3008Reference
	}
	first, count := 0, mcp3008Channels
	if s.Channel != nil {
		first, count = *s.Channel, 1
	}
	return func() (map[drivers.Quantity]float64, error) {
		values := map[drivers.Quantity]float64{}
		for i := range count {
			code, err := mcp3008Read(c, first+i)
			if err != nil {
				return nil, fault(err)
			}
			values[t.Quantities[i]] = float64(code) * reference / 1024 // DS21295D, equation 4-2
		}
		return values, nil
	}, p, nil
}

// mcp3008Read converts one channel. What it sends is a start bit, single-ended
// mode and the channel; what comes back, a zero bit and ten bits, the highest first
// (DS21295D, figure 6-1).
func mcp3008Read(c spi.Conn, channel int) (uint16, error) {
	var r [3]byte
	if err := c.Tx([]byte{0x01, 0x80 | byte(channel)<<4, 0x00}, r[:]); err != nil {
		return 0, fmt.Errorf("convert channel %d: %w", channel, err)
	}
	if r[1]&0x04 != 0 {
		return 0, fmt.Errorf("convert channel %d: the zero bit before the result is a one: nothing is on the bus", channel)
	}
	return uint16(r[1]&0x03)<<8 | uint16(r[2]), nil
}
