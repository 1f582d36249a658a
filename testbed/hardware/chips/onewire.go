package chips

// Wire is a device on a 1-wire bus, bit by bit.
type Wire interface {
	// Present answers a reset of the bus: whether the device is there.
	Present() bool
	// Slot is one time slot in which the master writes a bit, a one if it
	// wants to read; the result is what the device leaves on the bus.
	Slot(master bool) bool
}

// The bridge's commands and registers, DS2482-100 data sheet, tables 2 and 3.
const (
	cmdDeviceReset  = 0xf0
	cmdSetPointer   = 0xe1
	cmdWriteConfig  = 0xd2
	cmdWireReset    = 0xb4
	cmdSingleBit    = 0x87
	cmdWriteByte    = 0xa5
	cmdReadByte     = 0x96
	cmdTriplet      = 0x78
	pointerStatus   = 0xf0
	pointerData     = 0xe1
	pointerConfig   = 0xc3
	statusPresence  = 1 << 1 // PPD
	statusLevel     = 1 << 3 // LL
	statusReset     = 1 << 4 // RST
	statusBit       = 1 << 5 // SBR
	statusSecond    = 1 << 6 // TSB
	statusDirection = 1 << 7 // DIR
)

// DS2482 is Maxim's I2C to 1-wire bridge, the DS2482-100. It is never busy:
// every command is done when it is acknowledged.
type DS2482 struct {
	wires   []Wire
	status  byte
	data    byte
	config  byte
	pointer byte
}

// NewDS2482 returns a bridge with devices on its 1-wire bus.
func NewDS2482(wires ...Wire) *DS2482 { return &DS2482{wires: wires} }

// Reset implements Device.
func (d *DS2482) Reset() {
	d.status, d.config, d.pointer = statusLevel|statusReset, 0, pointerStatus
}

// Read implements Device: the register that the read pointer names, again and
// again.
func (d *DS2482) Read(p []byte) bool {
	value := map[byte]byte{pointerStatus: d.status, pointerData: d.data, pointerConfig: d.config}[d.pointer]
	for i := range p {
		p[i] = value
	}
	return true
}

// Write implements Device: a command and its parameter.
func (d *DS2482) Write(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	var parameter byte
	if len(p) > 1 {
		parameter = p[1]
	}
	switch p[0] {
	case cmdDeviceReset:
		d.Reset()
		return true
	case cmdSetPointer:
		switch parameter {
		case pointerStatus, pointerData, pointerConfig:
			d.pointer = parameter
			return true
		}
		return false
	case cmdWriteConfig: // the upper half is the complement of the lower
		d.status &^= statusReset
		d.pointer = pointerConfig
		if parameter>>4 == ^parameter&0xf {
			d.config = parameter & 0xf
		}
		return true
	case cmdWireReset:
		d.set(statusPresence, d.present())
	case cmdSingleBit:
		d.set(statusBit, d.slot(parameter>>7 == 1))
	case cmdWriteByte:
		for i := range 8 {
			d.slot(parameter>>i&1 == 1)
		}
	case cmdReadByte:
		d.data = 0
		for i := range 8 {
			if d.slot(true) {
				d.data |= 1 << i
			}
		}
	case cmdTriplet:
		d.triplet(parameter>>7 == 1)
	default: // such as the channel select of the DS2482-800
		return false
	}
	d.pointer = pointerStatus
	return true
}

// triplet is one step of a search: a bit, its complement, and the direction
// taken; where both were seen the master's wish decides.
func (d *DS2482) triplet(wish bool) {
	bit, complement := d.slot(true), d.slot(true)
	direction := bit
	if !bit && !complement {
		direction = wish
	}
	d.slot(direction)
	d.set(statusBit, bit)
	d.set(statusSecond, complement)
	d.set(statusDirection, direction)
}

func (d *DS2482) set(flag byte, on bool) {
	d.status &^= flag
	if on {
		d.status |= flag
	}
}

func (d *DS2482) present() bool {
	found := false
	for _, w := range d.wires {
		found = w.Present() || found
	}
	return found
}

// slot is a wired AND: who sends a zero wins.
func (d *DS2482) slot(master bool) bool {
	level := master
	for _, w := range d.wires {
		level = w.Slot(master) && level
	}
	return level
}
