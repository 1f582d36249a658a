package usbip

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	controller = "/sys/devices/platform/vhci_hcd.0/"
	fullSpeed  = 2       // USB_SPEED_FULL
	deviceID   = 1 << 16 // a bus number and a device number: ours to choose, bus 1, device 0
	// patience bounds the wait for the kernel's driver to make a bus of the
	// adapter.
	patience = 20 * time.Second
)

// Attach plugs an adapter with a bus behind it into a port of the kernel's
// vhci_hcd, 0 to 7, and returns the device file that came of it, such as
// /dev/i2c-1. Nothing else may make an I2C bus at the time. The adapter is
// served until the process ends.
func Attach(port int, bus Bus) (string, error) {
	before, err := busFiles()
	if err != nil {
		return "", err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("make a socket pair: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "usbip")
	served := make(chan error, 1)
	go func() {
		defer ours.Close()
		served <- (&adapter{bus: bus}).serve(ours)
	}()
	line := fmt.Sprintf("%d %d %d %d", port, pair[1], deviceID+port, fullSpeed)
	err = os.WriteFile(controller+"attach", []byte(line), 0)
	unix.Close(pair[1]) // the kernel has its own reference
	if err != nil {
		return "", fmt.Errorf("plug an adapter into port %d of vhci_hcd (is the module loaded?): %w", port, err)
	}
	deadline := time.After(patience)
	for {
		after, err := busFiles()
		if err != nil {
			return "", err
		}
		for file := range after {
			if !before[file] {
				return file, nil
			}
		}
		select {
		case err := <-served:
			if errors.Is(err, io.EOF) {
				err = errors.New("the kernel let go of it")
			}
			return "", fmt.Errorf("serve the adapter in port %d: %w", port, err)
		case <-deadline:
			return "", fmt.Errorf("no /dev/i2c-N came of the adapter in port %d within %v (are i2c-dev and i2c-tiny-usb loaded?)", port, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func busFiles() (map[string]bool, error) {
	files, err := filepath.Glob("/dev/i2c-*")
	found := map[string]bool{}
	for _, f := range files {
		found[f] = true
	}
	return found, err
}
