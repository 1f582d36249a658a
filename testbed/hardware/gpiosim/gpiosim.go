// Package gpiosim makes GPIO chips of the kernel's gpio-sim, presses what is
// wired to their inputs, and records what is driven on their lines.
package gpiosim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// configfs is where chips are made, Documentation/admin-guide/gpio/gpio-sim.rst
// of the kernel.
const configfs = "/sys/kernel/config/gpio-sim"

// Chip is a simulated GPIO chip. It lives until the machine goes down, longer
// than the process that made it.
type Chip struct {
	Name string // such as gpiochip1
	Base int    // the number of its first line among all of the kernel's
	dir  string // of its lines' attributes
}

// New makes a chip with a label and a number of lines, some of which have
// names. One that was made before under the same id is used as it is.
func New(id, label string, lines int, names map[int]string) (*Chip, error) {
	device := filepath.Join(configfs, id)
	bank := filepath.Join(device, "bank0")
	if err := os.Mkdir(device, 0o755); err == nil {
		if err := configure(bank, label, lines, names); err != nil {
			return nil, fmt.Errorf("configure the GPIO chip %s: %w", label, err)
		}
		if err := write(filepath.Join(device, "live"), "1"); err != nil {
			return nil, fmt.Errorf("bring the GPIO chip %s to life: %w", label, err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make a GPIO chip (is gpio-sim loaded?): %w", err)
	}
	platform, err := read(filepath.Join(device, "dev_name"))
	if err != nil {
		return nil, err
	}
	name, err := read(filepath.Join(bank, "chip_name"))
	if err != nil {
		return nil, err
	}
	base, err := firstLine(platform, label)
	if err != nil {
		return nil, err
	}
	return &Chip{Name: name, Base: base, dir: filepath.Join("/sys/devices/platform", platform, name)}, nil
}

func configure(bank, label string, lines int, names map[int]string) error {
	if err := os.Mkdir(bank, 0o755); err != nil {
		return err
	}
	if err := write(filepath.Join(bank, "num_lines"), strconv.Itoa(lines)); err != nil {
		return err
	}
	if err := write(filepath.Join(bank, "label"), label); err != nil {
		return err
	}
	for offset, name := range names {
		line := filepath.Join(bank, fmt.Sprintf("line%d", offset))
		if err := os.Mkdir(line, 0o755); err != nil {
			return err
		}
		if err := write(filepath.Join(line, "name"), name); err != nil {
			return err
		}
	}
	return nil
}

// firstLine looks a chip's base up, which the kernel's trace counts lines from.
func firstLine(platform, label string) (int, error) {
	files, err := filepath.Glob(filepath.Join("/sys/devices/platform", platform, "gpio", "gpiochip*", "base"))
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("the kernel does not tell the base of the GPIO chip %s: CONFIG_GPIO_SYSFS is off", label)
	}
	base, err := read(files[0])
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(base)
}

// Pull sets what an input is pulled to from outside.
func (c *Chip) Pull(offset int, high bool) error {
	return write(c.attribute(offset, "pull"), map[bool]string{true: "pull-up", false: "pull-down"}[high])
}

// Pulled tells what an input is pulled to.
func (c *Chip) Pulled(offset int) (bool, error) {
	s, err := read(c.attribute(offset, "pull"))
	return s == "pull-up", err
}

// Value is the level of a line: what drives it, or what it is pulled to.
func (c *Chip) Value(offset int) (bool, error) {
	s, err := read(c.attribute(offset, "value"))
	return s == "1", err
}

func (c *Chip) attribute(offset int, name string) string {
	return filepath.Join(c.dir, fmt.Sprintf("sim_gpio%d", offset), name)
}

func write(path, value string) error { return os.WriteFile(path, []byte(value), 0) }

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
