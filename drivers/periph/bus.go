package periph

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"github.com/edgefn/edgefn/drivers"
)

// hints for a bus that is not there, on the machine that most people have.
const (
	hintI2C     = "on a Raspberry Pi, add dtparam=i2c_arm=on to /boot/firmware/config.txt, i2c-dev to /etc/modules, and reboot"
	hintSPI     = "on a Raspberry Pi, add dtparam=spi=on to /boot/firmware/config.txt and reboot"
	hintOneWire = "on a Raspberry Pi, add dtoverlay=w1-gpio to /boot/firmware/config.txt and reboot"
)

// Bus implements drivers.Driver.
func (d *Driver) Bus(name string) (string, error) {
	kind, ok := drivers.BusOf(name)
	if !ok {
		return "", fmt.Errorf("%w: %q is no name of a bus", drivers.ErrUnknown, name)
	}
	file, there, hint := name, d.i2cBuses(), hintI2C
	if kind == drivers.SPI {
		file, there, hint = "spidev"+strings.TrimPrefix(name, "spi"), d.spiDevices(), hintSPI
	}
	path := d.path("dev", file)
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return path, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fault(err)
	}
	if kind == drivers.I2C {
		if _, err := os.Stat(d.path("sys/bus/i2c/devices", name)); err == nil {
			return "", fmt.Errorf("%w: the kernel has the bus %s but no device file for it: load the module i2c-dev", drivers.ErrUnknown, name)
		}
	}
	if len(there) > 0 {
		return "", fmt.Errorf("%w: no bus %s: there are %s", drivers.ErrUnknown, name, strings.Join(there, ", "))
	}
	return "", fmt.Errorf("%w: no bus %s: %s", drivers.ErrUnknown, name, hint)
}

// i2cBuses are the names of the I2C buses that have a device file.
func (d *Driver) i2cBuses() []string { return d.buses("i2c-", "i2c-") }

// spiDevices are the names of the SPI devices that have a device file.
func (d *Driver) spiDevices() []string { return d.buses("spidev", "spi") }

func (d *Driver) buses(file, name string) []string {
	paths, err := filepath.Glob(d.path("dev", file+"*"))
	if err != nil {
		panic(err) // the pattern is right
	}
	var all []string
	for _, p := range paths {
		n := name + strings.TrimPrefix(filepath.Base(p), file)
		if _, ok := drivers.BusOf(n); ok {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b string) int {
		return slices.Compare(numbers(a), numbers(b))
	})
	return all
}

// numbers are those in a bus's name: spi1.10 has 1 and 10.
func numbers(bus string) []int {
	text := strings.TrimPrefix(strings.TrimPrefix(bus, "i2c-"), "spi")
	var all []int
	for f := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(f)
		if err != nil {
			panic(err) // BusOf has seen the name
		}
		all = append(all, n)
	}
	return all
}

// i2cBus opens an I2C bus by name. The caller closes it.
func (d *Driver) i2cBus(name string) (i2c.BusCloser, error) {
	if _, err := d.Bus(name); err != nil {
		return nil, err
	}
	var n int
	if _, err := fmt.Sscanf(name, "i2c-%d", &n); err != nil {
		return nil, err
	}
	b, err := d.openI2C(n)
	if err != nil {
		return nil, fault(fmt.Errorf("open bus %s: %w", name, err))
	}
	return b, nil
}

// spiPort opens an SPI device by name. The caller closes it.
func (d *Driver) spiPort(name string) (spi.PortCloser, error) {
	if _, err := d.Bus(name); err != nil {
		return nil, err
	}
	var bus, device int
	if _, err := fmt.Sscanf(name, "spi%d.%d", &bus, &device); err != nil {
		return nil, err
	}
	p, err := d.openSPI(bus, device)
	if err != nil {
		return nil, fault(fmt.Errorf("open %s: %w", name, err))
	}
	return p, nil
}

// maxTransfers is how many transfers one reading may take: many times what any
// device here needs.
const maxTransfers = 500

var errEndless = errors.New("it does not come to an end: the bus may hang, or another device answers")

// budget bounds the transfers of one reading.
type budget struct{ left int }

func (b *budget) renew() { b.left = maxTransfers }

func (b *budget) spend() error {
	if b.left--; b.left < 0 {
		return errEndless
	}
	return nil
}

// boundedBus is an I2C bus with a budget.
type boundedBus struct {
	i2c.Bus
	*budget
}

func (b boundedBus) Tx(addr uint16, w, r []byte) error {
	if err := b.spend(); err != nil {
		return err
	}
	return b.Bus.Tx(addr, w, r)
}

// boundedPort is an SPI port whose connection has a budget.
type boundedPort struct {
	spi.Port
	*budget
	conn spi.Conn // once connected
}

func (p *boundedPort) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	c, err := p.Port.Connect(f, mode, bits)
	if err != nil {
		return nil, err
	}
	p.conn = boundedConn{c, p.budget}
	return p.conn, nil
}

type boundedConn struct {
	spi.Conn
	*budget
}

func (c boundedConn) Tx(w, r []byte) error {
	if err := c.spend(); err != nil {
		return err
	}
	return c.Conn.Tx(w, r)
}

// noAnswer reports whether a transfer failed because nothing acknowledged its
// address. periph gives the kernel's error as text only; adapters use several
// (Documentation/i2c/fault-codes.rst).
func noAnswer(err error) bool {
	if err == nil {
		return false
	}
	for _, e := range []string{"no such device or address", "remote I/O error", "input/output error"} {
		if strings.Contains(err.Error(), e) {
			return true
		}
	}
	return false
}
