package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/edgefn/edgefn/drivers"
)

// Memory below which a gateway is short of it: a node takes 40 MB, containerd as
// much, a function its limit.
const (
	littleMemory = 400 << 20 // bytes, of the machine
	littleFree   = 64 << 20  // bytes, available
)

func (e *examination) memory(context.Context) {
	total, free := e.meminfo("MemTotal"), e.meminfo("MemAvailable")
	switch {
	case total == 0:
		e.add("memory", Warning, nil, "/proc/meminfo does not say how much there is")
	case total < littleMemory:
		e.add("memory", Warning, []string{"# write smaller limits into the functions' manifests: memory: 32Mi, scale: {max: 2}"},
			"%s in all, %s available: room for few functions", humanize.IBytes(total), humanize.IBytes(free))
	case free < littleFree:
		e.add("memory", Warning, []string{"ps -eo rss,args --sort=-rss | head"}, "only %s of %s are available", humanize.IBytes(free), humanize.IBytes(total))
	default:
		e.add("memory", OK, nil, "%s of %s are available", humanize.IBytes(free), humanize.IBytes(total))
	}
}

// meminfo is a line of /proc/meminfo in bytes.
func (e *examination) meminfo(name string) uint64 {
	for line := range strings.Lines(e.text("/proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// Bits of the Raspberry Pi firmware's get_throttled,
// https://www.raspberrypi.com/documentation/computers/os.html#get_throttled.
const (
	underVoltage     = 1 << 0
	throttled        = 1 << 2
	underVoltageOnce = 1 << 16
	throttledOnce    = 1 << 18
)

// hot is the temperature at which a Raspberry Pi begins to slow down.
const hot = 80_000 // thousandths of a degree Celsius

// power checks the supply and the temperature, where the machine tells.
func (e *examination) power(context.Context) {
	const check = "power"
	supply := []string{"# use the supply made for this board, with a short thick cable"}
	known := false
	for _, f := range e.glob("/sys/devices/platform/soc*/soc*firmware/get_throttled") {
		bits, err := strconv.ParseUint(strings.TrimPrefix(e.text(f), "0x"), 16, 32)
		if err != nil {
			continue
		}
		known = true
		switch {
		case bits&underVoltage != 0:
			e.add(check, Warning, supply, "the voltage is too low")
			return
		case bits&underVoltageOnce != 0:
			e.add(check, Warning, supply, "the voltage has been too low since the machine started")
			return
		case bits&(throttled|throttledOnce) != 0:
			e.add(check, Warning, []string{"# cool the board"}, "the processor was slowed down since the machine started")
			return
		}
	}
	for _, f := range e.glob("/sys/class/hwmon/hwmon*/in0_lcrit_alarm") {
		if e.text(path.Dir(f)+"/name") != "rpi_volt" {
			continue
		}
		known = true
		if e.text(f) == "1" {
			e.add(check, Warning, supply, "the voltage is too low")
			return
		}
	}
	for _, f := range e.glob("/sys/class/thermal/thermal_zone*/temp") {
		t, err := strconv.Atoi(e.text(f))
		if err != nil {
			continue
		}
		known = true
		if t >= hot {
			e.add(check, Warning, []string{"# cool the board"}, "the processor has %d °C, and is slowed down", t/1000)
			return
		}
	}
	if known {
		e.add(check, OK, nil, "voltage and temperature as they should be, as far as the machine tells")
	}
}

// gpioGroup is whose members may use the lines, by the rules of Raspberry Pi OS
// and of Debian's raspi-firmware.
const gpioGroup = "gpio"

// chips checks who may use the chips of lines. The node is root and always may.
func (e *examination) chips() {
	const check = "gpio chips"
	found := e.glob("/dev/gpiochip*")
	gid, hasGroup := e.group(gpioGroup)
	var wrong []string
	for _, chip := range found {
		fi, err := fs.Stat(e.Root, strings.TrimPrefix(chip, "/"))
		if err != nil {
			continue
		}
		owner := -1
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			owner = int(st.Gid)
		}
		switch {
		case fi.Mode().Perm()&0o002 != 0:
			wrong = append(wrong, fmt.Sprintf("%s has mode %#o: every user may drive its lines", chip, fi.Mode().Perm()))
		case hasGroup && owner != gid:
			wrong = append(wrong, fmt.Sprintf("%s has group %s, not %s", chip, e.groupName(owner), gpioGroup))
		case hasGroup && fi.Mode().Perm()&0o060 != 0o060:
			wrong = append(wrong, fmt.Sprintf("%s has mode %#o: group %s may not use it", chip, fi.Mode().Perm(), gpioGroup))
		}
	}
	switch {
	case len(wrong) > 0:
		e.add(check, Warning, []string{
			`echo 'SUBSYSTEM=="gpio", KERNEL=="gpiochip*", GROUP="gpio", MODE="0660"' > /etc/udev/rules.d/60-edgefn-gpio.rules`,
			"groupadd --force --system gpio",
			"udevadm control --reload && udevadm trigger --subsystem-match=gpio",
		}, "%s", strings.Join(wrong, "; "))
	case len(found) > 0 && e.UID != 0 && hasGroup && !slices.Contains(e.Groups, gid):
		e.add(check, Warning, []string{fmt.Sprintf("usermod -aG %s $(id -un %d)", gpioGroup, e.UID)}, "this user is not in group %s; the node, as root, may use them", gpioGroup)
	case len(found) > 0:
		e.add(check, OK, nil, "%s", strings.Join(found, ", "))
	case slices.ContainsFunc(e.cfg.Devices, e.needsChip):
		e.add(check, Failed, []string{
			"# the kernel has no driver for this board's lines: boot the board's own kernel and device tree",
			"# or, on a machine without lines, let the config say hardware: sim",
		}, "there are none, and the config names lines")
	}
}

// needsChip reports whether a device is a line that a chip's device file has to
// serve: one of a named chip, or any where the kernel has no older way to lines.
func (e *examination) needsChip(d drivers.Spec) bool {
	if _, _, ok := drivers.ParseChipLine(d.Line); ok {
		return true
	}
	return d.Line != "" && len(e.glob("/sys/class/gpio/gpiochip*")) == 0
}

// group finds a group's number.
func (e *examination) group(name string) (gid int, ok bool) {
	for line := range strings.Lines(e.text("/etc/group")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 3 && f[0] == name {
			gid, err := strconv.Atoi(f[2])
			return gid, err == nil
		}
	}
	return 0, false
}

func (e *examination) groupName(gid int) string {
	for line := range strings.Lines(e.text("/etc/group")) {
		if f := strings.Split(line, ":"); len(f) >= 3 && f[2] == strconv.Itoa(gid) {
			return f[0]
		}
	}
	return strconv.Itoa(gid)
}
