package drivers

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Addresses of a device on an I2C bus, without the reserved ones (I2C-bus
// specification UM10204, 3.1.12).
const (
	MinAddress = 0x03
	MaxAddress = 0x77
)

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	i2cForm     = regexp.MustCompile(`^i2c-(0|[1-9][0-9]{0,3})$`)
	spiForm     = regexp.MustCompile(`^spi(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,2})$`)
	oneWireForm = regexp.MustCompile(`^28-[0-9a-f]{12}$`)
	chipForm    = regexp.MustCompile(`^gpiochip:(.+)/(0|[1-9][0-9]{0,4})$`)
)

// chipPrefix begins a line that is named by its chip.
const chipPrefix = "gpiochip:"

// ChipLine is the form in which a line is named by its chip.
func ChipLine(label string, offset int) string {
	return chipPrefix + label + "/" + strconv.Itoa(offset)
}

// ParseChipLine is ChipLine backwards.
func ParseChipLine(line string) (label string, offset int, ok bool) {
	m := chipForm.FindStringSubmatch(line)
	if m == nil {
		return "", 0, false
	}
	offset, err := strconv.Atoi(m[2])
	return m[1], offset, err == nil
}

// BusOf says what kind of bus a name of one is.
func BusOf(name string) (BusKind, bool) {
	switch {
	case i2cForm.MatchString(name):
		return I2C, true
	case spiForm.MatchString(name):
		return SPI, true
	}
	return "", false
}

// checker collects the faults of a Spec.
type checker struct {
	spec   Spec
	faults []error
}

// add adds a fault: what is wrong, and what to do.
func (c *checker) add(hint, format string, args ...any) {
	c.faults = append(c.faults, c.spec.fault(fmt.Errorf("%s: %s", fmt.Sprintf(format, args...), hint)))
}

// fault is an error with the place and the name of the device in front.
func (s Spec) fault(err error) error {
	if s.Where == "" {
		return fmt.Errorf("device %q: %w", s.Name, err)
	}
	return fmt.Errorf("%s: device %q: %w", s.Where, s.Name, err)
}

// Validate reports all faults of specs at once, as far as they can be seen
// without the hardware.
func Validate(specs []Spec) error {
	var faults []error
	for i, s := range specs {
		c := checker{spec: s}
		c.check()
		c.twice(specs[:i])
		faults = append(faults, c.faults...)
	}
	return errors.Join(faults...)
}

func (c *checker) check() {
	s := c.spec
	if !nameForm.MatchString(s.Name) {
		c.add("use 1 to 63 lower-case letters, digits, hyphens and underscores", "%q is no name of a device", s.Name)
	}
	switch {
	case s.Line != "" && s.Sensor != "":
		c.add("give each an entry of its own", "it is both a line and a sensor")
	case s.Line != "":
		c.line()
	case s.Sensor != "":
		c.sensor()
	default:
		c.add("say which, such as line: GPIO17 or sensor: bme280", "it is neither a line nor a sensor")
	}
}

func (c *checker) line() {
	s := c.spec
	if strings.HasPrefix(s.Line, chipPrefix) {
		if _, _, ok := ParseChipLine(s.Line); !ok {
			c.add("write gpiochip:LABEL/OFFSET, such as gpiochip:pinctrl-bcm2711/17", "%q is no line of a chip", s.Line)
		}
	}
	for _, k := range []struct {
		key string
		set bool
	}{{"bus", s.Bus != ""}, {"address", s.Address != 0}, {"id", s.ID != ""}, {"channel", s.Channel != nil}, {"reference", s.Reference != 0}} {
		if k.set {
			c.add("remove it", "a line has no %s", k.key)
		}
	}
	switch s.Direction {
	case "", In:
		if s.Initial != "" {
			c.add("remove it, or write direction: out", "an input has no initial level")
		}
		if s.Safe != "" {
			c.add("remove it, or write direction: out", "an input has no safe level")
		}
		if s.Pull != "" && s.Pull != PullUp && s.Pull != PullDown && s.Pull != PullOff {
			c.add("use up, down or off", "pull %q is not known", s.Pull)
		}
	case Out:
		if s.Pull != "" {
			c.add("remove it", "an output has no pull")
		}
		if s.Safe == "" {
			c.add("write safe: low or safe: high, the level that does no harm when nobody commands the line", "safe is missing")
		} else {
			c.level("safe", s.Safe)
		}
		if s.Initial != "" {
			c.level("initial", s.Initial)
		}
	default:
		c.add("use in or out", "direction %q is not known", s.Direction)
	}
}

func (c *checker) level(key string, l Level) {
	if l != Low && l != High {
		c.add("use low or high", "%s %q is no level", key, l)
	}
}

func (c *checker) sensor() {
	s := c.spec
	for _, k := range []struct {
		key string
		set bool
	}{{"direction", s.Direction != ""}, {"pull", s.Pull != ""}, {"active_low", s.ActiveLow}, {"initial", s.Initial != ""}, {"safe", s.Safe != ""}} {
		if k.set {
			c.add("remove it", "a sensor has no %s", k.key)
		}
	}
	t, ok := TypeOf(s)
	if !ok {
		hint := "known are " + strings.Join(typeNames(), ", ")
		if n := Near(s.Sensor, typeNames(), 1); len(n) > 0 {
			hint = fmt.Sprintf("do you mean %s? %s", n[0], hint)
		}
		c.add(hint, "sensor type %q is not known", s.Sensor)
		return
	}
	c.bus(t)
	if t.id {
		switch {
		case s.ID == "":
			c.add("write it as in /sys/bus/w1/devices, such as id: 28-0000075f1a2b", "id is missing")
		case !oneWireForm.MatchString(s.ID):
			c.add("write 28, a hyphen and twelve hexadecimal digits in lower case, such as 28-0000075f1a2b", "%q is no id of %s", s.ID, t.Name)
		}
	} else if s.ID != "" {
		c.add("remove it", "%s has no id", t.Name)
	}
	if s.Channel != nil && t.channels == 0 {
		c.add("remove it", "%s has no channels", t.Name)
	} else if s.Channel != nil && (*s.Channel < 0 || *s.Channel >= t.channels) {
		c.add(fmt.Sprintf("use 0 to %d, or leave it out to read all", t.channels-1), "%s has no channel %d", t.Name, *s.Channel)
	}
	if s.Reference != 0 && !t.reference {
		c.add("remove it", "%s has no reference voltage", t.Name)
	} else if s.Reference != 0 && !(s.Reference > 0 && s.Reference <= MaxReference) {
		c.add(fmt.Sprintf("write volts, up to %g", MaxReference), "reference %g is no voltage of %s", s.Reference, t.Name)
	}
}

func (c *checker) bus(t SensorType) {
	s := c.spec
	kind, ok := BusOf(s.Bus)
	switch {
	case s.Bus == "" && slices.Contains(t.buses, OneWire):
		if s.Address != 0 {
			c.add("name the I2C bus of its bridge too, or remove the address", "address is given without a bus")
		}
		return
	case s.Bus == "":
		c.add("say where it hangs, such as bus: "+example(t.buses[0]), "bus is missing")
		return
	case !ok:
		c.add("write a bus such as i2c-1 or spi0.0", "%q is no name of a bus", s.Bus)
		return
	case !slices.Contains(t.buses, kind):
		c.add("write a bus such as "+example(t.buses[len(t.buses)-1]), "%s does not hang on %s", t.Name, s.Bus)
		return
	}
	switch {
	case s.Address == 0:
	case kind != I2C:
		c.add("remove it", "a device on %s has no address", s.Bus)
	case s.Address < MinAddress || s.Address > MaxAddress:
		c.add(fmt.Sprintf("use %#02x to %#x; %s has %s", MinAddress, MaxAddress, t.Name, addresses(t.addresses)), "address %#02x is none of an I2C bus", s.Address)
	case !slices.Contains(t.addresses, s.Address):
		c.add("use "+addresses(t.addresses), "%s cannot have the address %#02x", t.Name, s.Address)
	}
}

func example(k BusKind) string {
	if k == SPI {
		return "spi0.0"
	}
	return "i2c-1"
}

func addresses(all []uint16) string {
	text := make([]string, len(all))
	for i, a := range all {
		text[i] = fmt.Sprintf("%#02x", a)
	}
	return strings.Join(text, ", ")
}

// twice reports what an earlier Spec has already.
func (c *checker) twice(earlier []Spec) {
	s := c.spec
	for _, e := range earlier {
		switch {
		case e.Name == s.Name:
			c.add("remove one", "the name is given twice")
		case s.Line != "" && s.Line == e.Line:
			c.add("remove one", "the line %s has a name already: %q", s.Line, e.Name)
		case s.Sensor != "" && s.Sensor == e.Sensor && place(s) == place(e):
			c.add("remove one", "the sensor at %s has a name already: %q", place(s), e.Name)
		}
	}
}

// AddressOf is where a sensor is on its I2C bus.
func AddressOf(s Spec) uint16 {
	if s.Address != 0 {
		return s.Address
	}
	if t, ok := TypeOf(s); ok && len(t.addresses) > 0 {
		return t.addresses[0]
	}
	return 0
}

// place says for people where a device is: "gpiochip:LABEL/17", "i2c-1 0x76".
func place(s Spec) string {
	if s.Line != "" {
		return s.Line
	}
	var parts []string
	if s.Bus != "" {
		parts = append(parts, s.Bus)
		if kind, _ := BusOf(s.Bus); kind == I2C {
			parts = append(parts, fmt.Sprintf("%#02x", AddressOf(s)))
		}
	}
	if s.ID != "" {
		parts = append(parts, s.ID)
	}
	if s.Channel != nil {
		parts = append(parts, fmt.Sprintf("channel %d", *s.Channel))
	}
	return strings.Join(parts, " ")
}
