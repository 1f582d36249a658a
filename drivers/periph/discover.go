package periph

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/drivers"
)

var noName = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf makes a name of a device from what the hardware is called.
func nameOf(s string) string {
	n := strings.Trim(noName.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if n == "" {
		return "device"
	}
	return n[:min(len(n), 63)]
}

func (d *Driver) foundLines() ([]drivers.Found, error) {
	chips, err := d.chips()
	var all []drivers.Found
	for _, c := range chips {
		for _, l := range c.lines {
			p := at(chips, c, l.offset)
			name := p.at
			if n, err := named(chips, l.name); l.name != "" && err == nil && n.at == p.at {
				name = l.name // there is one of it
			}
			label := l.name
			if label == "" {
				label = fmt.Sprintf("%s-%d", c.label, l.offset)
			}
			f := drivers.Found{
				Kind: drivers.KindLine, Name: name, At: p.at,
				What:   fmt.Sprintf("line %d of %s (%s)", l.offset, c.name, c.label),
				Config: fmt.Sprintf("%s: {line: %q}", nameOf(label), name),
			}
			if f.UsedBy = l.consumer; l.used && l.consumer == "" {
				f.UsedBy = "the kernel"
			}
			all = append(all, f)
		}
	}
	return all, err
}

func (d *Driver) foundI2C() ([]drivers.Found, error) {
	var all []drivers.Found
	for _, b := range d.i2cBuses() {
		f := drivers.Found{
			Kind: string(drivers.I2C), Name: b,
			What:   "I2C bus: " + d.sysfs("sys/bus/i2c/devices", b, "name"),
			Config: fmt.Sprintf("sensor-%s: {sensor: bme280, bus: %s, address: 0x76}", nameOf(b), b),
		}
		f.UsedBy = strings.Join(d.bound(b), ", ")
		all = append(all, f)
	}
	paths, err := filepath.Glob(d.path("sys/bus/i2c/devices", "i2c-*"))
	if err != nil {
		return all, err
	}
	for _, p := range paths {
		b := filepath.Base(p)
		if _, ok := drivers.BusOf(b); ok && !slices.ContainsFunc(all, func(f drivers.Found) bool { return f.Name == b }) {
			all = append(all, drivers.Found{
				Kind: string(drivers.I2C), Name: b,
				What: "I2C bus without a device file: load the module i2c-dev: " + d.sysfs("sys/bus/i2c/devices", b, "name"),
			})
		}
	}
	return all, nil
}

// bound are the devices of a bus that a driver of the kernel's has.
func (d *Driver) bound(bus string) []string {
	n := strings.TrimPrefix(bus, "i2c-")
	paths, err := filepath.Glob(d.path("sys/bus/i2c/devices", n+"-*", "driver"))
	if err != nil {
		return nil
	}
	var all []string
	for _, p := range paths {
		dir := filepath.Dir(p)
		address := strings.TrimPrefix(filepath.Base(dir), n+"-")
		all = append(all, fmt.Sprintf("%s at 0x%s", d.sysfs("sys/bus/i2c/devices", filepath.Base(dir), "name"), strings.TrimLeft(address, "0")))
	}
	return all
}

func (d *Driver) foundSPI() ([]drivers.Found, error) {
	var all []drivers.Found
	for _, b := range d.spiDevices() {
		all = append(all, drivers.Found{
			Kind: string(drivers.SPI), Name: b, What: "SPI device",
			Config: fmt.Sprintf("adc-%s: {sensor: mcp3008, bus: %s}", nameOf(b), b),
		})
	}
	return all, nil
}

func (d *Driver) foundOneWire() ([]drivers.Found, error) {
	var all []drivers.Found
	for _, id := range d.oneWireIDs() {
		all = append(all, drivers.Found{
			Kind: string(drivers.OneWire), Name: id, What: "DS18B20 thermometer",
			Config: fmt.Sprintf("temperature-%s: {sensor: ds18b20, id: %s}", nameOf(id), id),
		})
	}
	return all, nil
}

// oneWireIDs are the DS18B20 that the kernel has found.
func (d *Driver) oneWireIDs() []string {
	paths, err := filepath.Glob(d.path("sys/bus/w1/devices", "28-*"))
	if err != nil {
		return nil
	}
	ids := make([]string, len(paths))
	for i, p := range paths {
		ids[i] = filepath.Base(p)
	}
	return ids
}

// sysfs is a short file's text, empty if it cannot be read.
func (d *Driver) sysfs(name ...string) string {
	text, err := os.ReadFile(d.path(name...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
