package periph

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/host/v3/sysfs"

	"github.com/edgefn/edgefn/drivers"
)

var _ drivers.Driver = (*Driver)(nil)

// Config configures a Driver. All of it may be left out.
type Config struct {
	Logger *slog.Logger // nil discards
	Root   string       // where /dev and /sys are found; empty: /
}

// Driver is the machine's hardware.
type Driver struct {
	log  *slog.Logger
	root string

	// What stands between this package and the machine; tests put fakes here.
	chips   func() ([]chip, error)       // of the kernel, as they are now
	pin     func(name string) gpio.PinIO // of periph; nil: there is none
	pins    func() []string              // their names
	openI2C func(bus int) (i2c.BusCloser, error)
	openSPI func(bus, device int) (spi.PortCloser, error)

	buffer uint32 // edges that the kernel keeps: eventBuffer

	mu    sync.Mutex
	locks map[string]*sync.Mutex // of chips that several sensors share, by place
}

// New makes a Driver. It touches nothing.
func New(cfg Config) *Driver {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	d := &Driver{
		log: cfg.Logger.With("component", "periph"), root: cfg.Root,
		pin: periphPin, pins: periphPins,
		// Straight from the kernel's number of the bus: periph's registry is as old as
		// the process, and an adapter may have come since.
		openI2C: func(bus int) (i2c.BusCloser, error) { return sysfs.NewI2C(bus) },
		openSPI: func(bus, device int) (spi.PortCloser, error) { return sysfs.NewSPI(bus, device) },
		buffer:  eventBuffer,
		locks:   map[string]*sync.Mutex{},
	}
	d.chips = d.kernelChips
	return d
}

// Close implements drivers.Driver.
func (d *Driver) Close() error { return nil }

// path is a file of the machine's.
func (d *Driver) path(name ...string) string {
	return filepath.Join(append([]string{d.root}, name...)...)
}

// lock returns the mutex of a chip that several sensors may share.
func (d *Driver) lock(place string) *sync.Mutex {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.locks[place]
	if !ok {
		l = &sync.Mutex{}
		d.locks[place] = l
	}
	return l
}

// fault is an error of the machine's in our words, with what to do.
func fault(err error) error {
	switch {
	case err == nil, errors.Is(err, drivers.ErrFault), errors.Is(err, drivers.ErrBusy), errors.Is(err, drivers.ErrUnknown):
		return err
	case errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("%w: %w: run the node as root, or as a member of the groups gpio, i2c and spi", drivers.ErrFault, err)
	}
	return fmt.Errorf("%w: %w", drivers.ErrFault, err)
}

// Discover implements drivers.Driver.
func (d *Driver) Discover(ctx context.Context) ([]drivers.Found, error) {
	var all []drivers.Found
	var faults []error
	for _, part := range []func() ([]drivers.Found, error){d.foundLines, d.foundI2C, d.foundSPI, d.foundOneWire} {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		found, err := part()
		all = append(all, found...)
		faults = append(faults, err)
	}
	return all, errors.Join(faults...)
}
