package doctor

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/node"
)

// kindOfBus is how a Raspberry Pi gets buses of a kind.
type kindOfBus struct {
	setting string // of config.txt
	module  string // that makes the device files; empty: none
	seen    string // pattern of what the kernel has of the kind
}

var (
	i2c     = kindOfBus{"dtparam=i2c_arm=on", "i2c-dev", "/sys/bus/i2c/devices/i2c-*"}
	spi     = kindOfBus{"dtparam=spi=on", "spidev", "/sys/bus/spi/devices/spi*"}
	oneWire = kindOfBus{"dtoverlay=w1-gpio", "", "/sys/bus/w1/devices/w1_bus_master*"}
)

// hardware checks what the config's devices need. Simulated ones need nothing.
func (e *examination) hardware(context.Context) {
	if e.cfg.Hardware == node.HardwareSim {
		e.add("hardware", OK, nil, "simulated: the config's devices need none")
		return
	}
	e.chips()
	e.buses()
}

// buses checks that those are there which devices of the config are on.
func (e *examination) buses() {
	done := map[string]bool{}
	for _, d := range e.cfg.Devices {
		switch {
		case d.Sensor == "":
		case d.ID != "":
			e.oneWireDevice(d, done)
		case d.Bus != "" && !done[d.Bus]:
			done[d.Bus] = true
			e.bus(d)
		}
	}
}

// bus checks an I2C or SPI bus.
func (e *examination) bus(d drivers.Spec) {
	kind, file := i2c, "/dev/"+d.Bus
	if rest, ok := strings.CutPrefix(d.Bus, "spi"); ok {
		kind, file = spi, "/dev/spidev"+rest
	}
	check := "bus " + d.Bus
	if e.exists(file) {
		e.add(check, OK, nil, "%s, for %s", file, d.Name)
		return
	}
	seen := e.glob(kind.seen)
	if slices.ContainsFunc(seen, func(f string) bool { return path.Base(f) == d.Bus }) {
		e.add(check, Failed, []string{"modprobe " + kind.module, fmt.Sprintf("echo %s > /etc/modules-load.d/%s.conf", kind.module, kind.module)},
			"the kernel has the bus and no %s, which %s needs: the module %s is not loaded", file, d.Name, kind.module)
		return
	}
	var names []string
	for _, f := range seen {
		names = append(names, path.Base(f))
	}
	there := "there is none of its kind"
	if len(names) > 0 {
		there = "there are " + strings.Join(names, ", ")
	}
	e.add(check, Failed, e.setting(kind.setting), "%s is not there, and %s is on it; %s", file, d.Name, there)
}

// oneWireDevice checks the 1-wire bus, once, and that a device is on it.
func (e *examination) oneWireDevice(d drivers.Spec, done map[string]bool) {
	const check = "bus 1-wire"
	masters := e.glob(oneWire.seen)
	if !done[check] {
		done[check] = true
		if len(masters) == 0 {
			e.add(check, Failed, e.setting(oneWire.setting), "there is none, and %s is on it", d.Name)
		} else {
			e.add(check, OK, nil, "%s, for %s", path.Base(masters[0]), d.Name)
		}
	}
	if len(masters) == 0 || e.exists("/sys/bus/w1/devices/"+d.ID) {
		return
	}
	var others []string
	for _, f := range e.glob("/sys/bus/w1/devices/[0-9a-f][0-9a-f]-*") {
		others = append(others, path.Base(f))
	}
	there := "nothing is on the bus: look at the wires, and for a resistor of 4.7 kΩ from data to 3.3 V"
	if len(others) > 0 {
		there = "these are: " + strings.Join(others, ", ")
	}
	e.add("device "+d.Name, Warning, []string{"# write the id of the device that is there into the config, or connect the one that is named"}, "%s is not on the 1-wire bus; %s", d.ID, there)
}

// setting are the lines that put a setting into the firmware's config.txt.
func (e *examination) setting(line string) []string {
	for _, file := range configFiles {
		if !e.exists(file) {
			continue
		}
		for l := range strings.Lines(e.text(file)) {
			if strings.TrimSpace(l) == line {
				return []string{"# " + file + " has it already", "reboot"}
			}
		}
		return []string{fmt.Sprintf("echo %s >> %s", line, file), "reboot"}
	}
	return []string{"# this is no Raspberry Pi: turn the bus on in its device tree or firmware, or connect an adapter"}
}
