package periph

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/warthog618/go-gpiocdev"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpioreg"
	"periph.io/x/host/v3"
	"periph.io/x/host/v3/gpioioctl"

	"github.com/edgefn/edgefn/drivers"
)

// chip is a GPIO chip of the kernel's.
type chip struct {
	name  string // gpiochip0: it changes from boot to boot
	label string
	lines []line
}

// line is one of its lines.
type line struct {
	offset   int
	name     string // empty: it has none
	consumer string // who uses it
	used     bool
}

// place is where a line was found.
type place struct {
	chip   string // the device's name
	offset int
	at     string     // for people, and the same for all names of the line
	pin    gpio.PinIO // of periph, where it alone serves the line; otherwise nil
}

// Find implements drivers.Driver.
func (d *Driver) Find(s drivers.Spec) (string, error) {
	p, err := d.find(s.Line)
	return p.at, err
}

// find looks a line up by chip and offset, by the kernel's name of it, and by
// periph's.
func (d *Driver) find(name string) (place, error) {
	chips, err := d.chips()
	if label, offset, ok := drivers.ParseChipLine(name); ok {
		p, e := onChip(chips, label, offset)
		return p, errors.Join(e, blocked(e, err))
	}
	if p, err := named(chips, name); err != nil || p.at != "" {
		return p, err
	}
	if pin := d.pin(name); pin != nil {
		return ofPin(chips, pin), nil
	}
	e := fmt.Errorf("%w: no line is called %q%s", drivers.ErrUnknown, name, hint(drivers.Near(name, append(names(chips), d.pins()...), 5)))
	return place{}, errors.Join(e, blocked(e, err))
}

// blocked is why the kernel's chips could not all be seen, where that may be why
// a line was not found.
func blocked(notFound, err error) error {
	if notFound == nil || err == nil {
		return nil
	}
	return fault(err)
}

func hint(near []string) string {
	if len(near) == 0 {
		return ": this machine has no GPIO chip; hardware: sim in the config stands in for one"
	}
	return ": near are " + strings.Join(near, ", ")
}

// onChip finds a line by the label of its chip, or the chip's name.
func onChip(chips []chip, label string, offset int) (place, error) {
	var found []chip
	var labels []string
	for _, c := range chips {
		labels = append(labels, c.label)
		if c.label == label || c.name == label {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0:
		return place{}, fmt.Errorf("%w: no GPIO chip has the label %q%s", drivers.ErrUnknown, label, hint(drivers.Near(label, labels, 5)))
	case len(found) > 1:
		return place{}, fmt.Errorf("%w: %d GPIO chips have the label %q: name the line instead, or write %s", drivers.ErrUnknown, len(found), label, drivers.ChipLine(found[0].name, offset))
	case offset >= len(found[0].lines):
		return place{}, fmt.Errorf("%w: chip %q has the lines 0 to %d, and no %d", drivers.ErrUnknown, label, len(found[0].lines)-1, offset)
	}
	return at(chips, found[0], offset), nil
}

// named finds a line by the kernel's name of it. It returns nothing if there is
// none.
func named(chips []chip, name string) (place, error) {
	var found []place
	for _, c := range chips {
		for _, l := range c.lines {
			if l.name == name {
				found = append(found, at(chips, c, l.offset))
			}
		}
	}
	switch len(found) {
	case 0:
		return place{}, nil
	case 1:
		return found[0], nil
	}
	all := make([]string, len(found))
	for i, p := range found {
		all[i] = p.at
	}
	return place{}, fmt.Errorf("%w: %d lines are called %q: write the one that is meant: %s", drivers.ErrUnknown, len(found), name, strings.Join(all, " or "))
}

// at names a line by its chip's label, or by the chip's name where another chip
// has the label too.
func at(chips []chip, c chip, offset int) place {
	label := c.label
	if n := slices.IndexFunc(chips, func(o chip) bool { return o.label == label && o.name != c.name }); n >= 0 || label == "" {
		label = c.name
	}
	return place{chip: c.name, offset: offset, at: drivers.ChipLine(label, offset)}
}

// ofPin brings a pin of periph's back to the kernel's line, if it has one.
func ofPin(chips []chip, pin gpio.PinIO) place {
	if r, ok := pin.(gpio.RealPin); ok {
		pin = r.Real()
	}
	if l, ok := pin.(*gpioioctl.GPIOLine); ok {
		for _, pc := range gpioioctl.Chips {
			if !slices.Contains(pc.Lines(), l) {
				continue
			}
			for _, c := range chips {
				if c.name == pc.Name() && l.Number() < len(c.lines) {
					return at(chips, c, l.Number())
				}
			}
		}
	}
	// A pin of the processor, such as a Pi's GPIO17, has the kernel's name.
	if p, err := named(chips, pin.Name()); err == nil && p.at != "" {
		return p
	}
	return place{at: pin.Name(), pin: pin}
}

// names are all that a line can be found by, in the kernel.
func names(chips []chip) []string {
	var all []string
	for _, c := range chips {
		for _, l := range c.lines {
			if l.name != "" {
				all = append(all, l.name)
			}
		}
	}
	return all
}

// kernelChips lists the chips that periph found when the process began, and
// those that have come since, as the kernel describes them now. The error says
// which could not be read.
func (d *Driver) kernelChips() ([]chip, error) {
	d.initHost()
	devices := make([]string, 0, 8)
	for _, c := range gpioioctl.Chips {
		devices = append(devices, c.Name())
	}
	for _, name := range gpiocdev.Chips() {
		if !slices.Contains(devices, name) {
			devices = append(devices, name)
		}
	}
	var chips []chip
	var faults []error
	for _, name := range devices {
		c, err := kernelChip(name)
		switch {
		case err == nil:
			chips = append(chips, c)
		case errors.Is(err, gpiocdev.ErrNotCharacterDevice), errors.Is(err, fs.ErrNotExist):
			// A link to another one, or gone since.
		default:
			faults = append(faults, fmt.Errorf("GPIO chip %s: %w", name, err))
		}
	}
	return chips, errors.Join(faults...)
}

func kernelChip(name string) (chip, error) {
	k, err := gpiocdev.NewChip(name)
	if err != nil {
		return chip{}, err
	}
	defer func() { _ = k.Close() }() // only read from
	c := chip{name: k.Name, label: k.Label, lines: make([]line, k.Lines())}
	for i := range c.lines {
		info, err := k.LineInfo(i)
		if err != nil {
			return chip{}, err
		}
		c.lines[i] = line{offset: i, name: info.Name, consumer: info.Consumer, used: info.Used}
	}
	return c, nil
}

// initHost has periph look at the machine. It does so once in a process.
func (d *Driver) initHost() {
	state, err := host.Init()
	if err != nil {
		d.log.Warn("periph does not know this machine", "err", err)
		return
	}
	for _, f := range state.Failed {
		d.log.Debug("periph driver not loaded", "driver", f.D.String(), "err", f.Err)
	}
}

func periphPin(name string) gpio.PinIO { return gpioreg.ByName(name) }

func periphPins() []string {
	all := gpioreg.All()
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name()
	}
	for _, a := range gpioreg.Aliases() {
		names = append(names, a.Name())
	}
	return names
}
