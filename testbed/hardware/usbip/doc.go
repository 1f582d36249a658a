// Package usbip plugs an emulated i2c-tiny-usb adapter into the running
// kernel: USB/IP messages over a socket pair that the kernel's vhci_hcd holds
// the other end of, no network. The kernel's own driver then makes a real
// /dev/i2c-N of it, on which every message is carried to a Bus.
package usbip
