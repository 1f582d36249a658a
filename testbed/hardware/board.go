package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edgefn/edgefn/testbed/hardware/chips"
	"github.com/edgefn/edgefn/testbed/hardware/gpiosim"
	"github.com/edgefn/edgefn/testbed/hardware/usbip"
)

// The board is what a Raspberry Pi 4 has: 28 lines of one chip with the names
// that a Pi's kernel gives them, and I2C bus 1 on its header. One line has a
// name of what is wired to it, as boards other than a Pi do.
const (
	chipLabel   = "pinctrl-bcm2711"
	lines       = 28
	thermometer = "0000075f1a2b" // the DS18B20's serial number
)

var renamed = map[int]string{23: "RELAY1"}

// The buses, in the order in which they are plugged in: the kernel numbers
// them so. Bus 0 carries the 1-wire bridge.
const (
	bridgePort, bridgeAddress = 0, 0x18
	headerPort, sensorAddress = 1, 0x76
)

// board is the simulated hardware. Its methods may be used by several
// goroutines.
type board struct {
	chip    *gpiosim.Chip
	history *gpiosim.History
	sensors map[string]sensor
}

// sensor is one that commands speak of by name.
type sensor struct {
	set     func(quantity string, value float64) error
	connect func(chips.Contact) error
}

// wire makes the board's devices, one after the other.
func wire() (*board, error) {
	names := map[int]string{}
	for offset := range lines {
		names[offset] = lineName(offset)
	}
	chip, err := gpiosim.New("edgefn", chipLabel, lines, names)
	if err != nil {
		return nil, err
	}
	history, err := gpiosim.Record()
	if err != nil {
		return nil, err
	}
	soil, err := chips.NewDS18B20(thermometer)
	if err != nil {
		return nil, err
	}
	air := chips.NewBME280()
	var bridge, header chips.Bus
	bridge.Add(bridgeAddress, chips.NewDS2482(soil))
	header.Add(sensorAddress, air)
	bridgeFile, err := usbip.Attach(bridgePort, &bridge)
	if err != nil {
		return nil, err
	}
	if _, err := usbip.Attach(headerPort, &header); err != nil {
		return nil, err
	}
	// The kernel cannot find what is on an I2C bus: it is told of the bridge,
	// as a device tree does on a real board.
	device := filepath.Join("/sys/bus/i2c/devices", filepath.Base(bridgeFile), "new_device")
	if err := os.WriteFile(device, fmt.Appendf(nil, "ds2482 %#x", bridgeAddress), 0); err != nil {
		return nil, fmt.Errorf("tell the kernel of the 1-wire bridge: %w", err)
	}
	return &board{chip: chip, history: history, sensors: map[string]sensor{
		"bme280":  {air.Set, func(c chips.Contact) error { return header.Connect(sensorAddress, c) }},
		"ds18b20": {soil.Set, func(c chips.Contact) error { soil.Connect(c); return nil }},
	}}, nil
}

const usage = `hardware serve                          simulate the board
hardware lines                          chip, number, name and level of each
hardware press LINE [DURATION]          away from its rest and back, 100ms
hardware pull LINE up|down              what an input is pulled to, to stay
hardware edges LINE COUNT HZ            so many edges, and how long they took
hardware value LINE                     its level: 0 or 1
hardware history LINE                   each level driven on it since boot: seconds, level, thread
hardware set SENSOR QUANTITY VALUE      what there is to measure: °C, %rH, Pa
hardware unplug|plug|garble SENSOR      bme280, ds18b20; garbled is all ones
`

// obey carries out one command.
func (b *board) obey(args []string) (string, error) {
	if len(args) == 0 {
		return "", fmt.Errorf("no command\n%s", usage)
	}
	name, args := args[0], args[1:]
	commands := map[string]struct {
		least, most int
		do          func([]string) (string, error)
	}{
		"lines":   {0, 0, b.lines},
		"press":   {1, 2, b.press},
		"pull":    {2, 2, b.pull},
		"edges":   {3, 3, b.edges},
		"value":   {1, 1, b.value},
		"history": {1, 1, b.past},
		"set":     {3, 3, b.set},
		"plug":    {1, 1, b.contact(chips.Plugged)},
		"unplug":  {1, 1, b.contact(chips.Unplugged)},
		"garble":  {1, 1, b.contact(chips.Garbled)},
	}
	c, ok := commands[name]
	if !ok || len(args) < c.least || len(args) > c.most {
		return "", fmt.Errorf("cannot %s\n%s", strings.Join(append([]string{name}, args...), " "), usage)
	}
	return c.do(args)
}

func lineName(offset int) string {
	if name := renamed[offset]; name != "" {
		return name
	}
	return fmt.Sprintf("GPIO%d", offset)
}

func (b *board) offset(line string) (int, error) {
	for offset := range lines {
		if lineName(offset) == line {
			return offset, nil
		}
	}
	return 0, fmt.Errorf("no line is called %s: there are GPIO0 to GPIO%d, but RELAY1 for GPIO23", line, lines-1)
}

func (b *board) lines([]string) (string, error) {
	var s strings.Builder
	for offset := range lines {
		high, err := b.chip.Value(offset)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&s, "%s %d %s %s\n", b.chip.Name, offset, lineName(offset), level(high))
	}
	return s.String(), nil
}

// toggle pulls a line the other way, n times with a period between. A late one
// follows as soon as the kernel has seen the one before, so that the rate holds
// on average.
func (b *board) toggle(line string, n int, period time.Duration) (time.Duration, error) {
	offset, err := b.offset(line)
	if err != nil {
		return 0, err
	}
	high, err := b.chip.Pulled(offset)
	if err != nil {
		return 0, err
	}
	interrupts, err := gpiosim.FindInterrupts()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * period)))
		high = !high
		if err := b.chip.Pull(offset, high); err != nil {
			return 0, err
		}
		if err := interrupts.Wait(); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

func (b *board) press(args []string) (string, error) {
	duration := 100 * time.Millisecond
	if len(args) > 1 {
		var err error
		if duration, err = time.ParseDuration(args[1]); err != nil {
			return "", err
		}
	}
	_, err := b.toggle(args[0], 2, duration)
	return "", err
}

func (b *board) pull(args []string) (string, error) {
	offset, err := b.offset(args[0])
	if err != nil {
		return "", err
	}
	if !slices.Contains([]string{"up", "down"}, args[1]) {
		return "", fmt.Errorf("a line is pulled up or down, not %s", args[1])
	}
	return "", b.chip.Pull(offset, args[1] == "up")
}

func (b *board) edges(args []string) (string, error) {
	count, err := strconv.Atoi(args[1])
	if err != nil || count < 1 {
		return "", fmt.Errorf("a count of edges is a positive number, not %s", args[1])
	}
	hz, err := strconv.ParseFloat(args[2], 64)
	if err != nil || hz <= 0 {
		return "", fmt.Errorf("a rate in Hz is a positive number, not %s", args[2])
	}
	took, err := b.toggle(args[0], count, time.Duration(float64(time.Second)/hz))
	return fmt.Sprintf("%d edges in %.3f s\n", count, took.Seconds()), err
}

func (b *board) value(args []string) (string, error) {
	offset, err := b.offset(args[0])
	if err != nil {
		return "", err
	}
	high, err := b.chip.Value(offset)
	return level(high) + "\n", err
}

func (b *board) past(args []string) (string, error) {
	offset, err := b.offset(args[0])
	if err != nil {
		return "", err
	}
	var s strings.Builder
	for _, d := range b.history.Of(b.chip.Base + offset) {
		fmt.Fprintf(&s, "%.6f %s %s\n", d.Seconds, level(d.High), d.By)
	}
	return s.String(), nil
}

func level(high bool) string { return map[bool]string{true: "1", false: "0"}[high] }

func (b *board) sensor(name string) (sensor, error) {
	s, ok := b.sensors[name]
	if !ok {
		return sensor{}, fmt.Errorf("no sensor is called %s: there are bme280 and ds18b20", name)
	}
	return s, nil
}

func (b *board) set(args []string) (string, error) {
	s, err := b.sensor(args[0])
	if err != nil {
		return "", err
	}
	value, err := strconv.ParseFloat(args[2], 64)
	if err != nil {
		return "", fmt.Errorf("a value is a number, not %s", args[2])
	}
	return "", s.set(args[1], value)
}

func (b *board) contact(c chips.Contact) func([]string) (string, error) {
	return func(args []string) (string, error) {
		s, err := b.sensor(args[0])
		if err != nil {
			return "", err
		}
		return "", s.connect(c)
	}
}
