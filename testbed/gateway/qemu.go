package gateway

import (
	"context"
	"fmt"
	"os/exec"
)

// boot is one run of QEMU.
type boot struct {
	image     Image
	initramfs string
	console   string // the file that the serial console goes to
	cmdline   string // what the kernel is told beside the console
	keep      bool   // what is written to the disk stays, for making an image
	ssh       int    // the loopback port that leads to the guest's ssh; 0 is none, and no network
}

// The address of the guest in QEMU's own network.
const guestAddress = "10.0.2.15"

// qemu is the command that runs a machine until it powers off; a reboot stays
// inside.
func qemu(ctx context.Context, b boot) *exec.Cmd {
	// Nothing has to survive this machine: the guest's flushes are not waited
	// for.
	disk := "if=none,id=root,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=" + b.image.Disk
	if !b.keep {
		disk += ",snapshot=on" // what is written goes to an unlinked file of QEMU's
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-machine", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-monitor", "none", "-serial", "file:" + b.console,
		"-drive", disk, "-device", "virtio-blk-pci,drive=root",
		"-kernel", b.image.Kernel, "-initrd", b.initramfs,
		// What the kernel does against leaks between processes costs most where
		// each address space is emulated.
		"-append", "console=ttyAMA0 quiet panic=10 mitigations=off kpti=off " + b.cmdline,
	}
	if b.ssh != 0 {
		args = append(args,
			"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-%s:22", b.ssh, guestAddress),
			// Without its ROM for booting over the network, which is in a package
			// that QEMU's only recommends.
			"-device", "virtio-net-pci,netdev=net,romfile=")
	}
	return exec.CommandContext(ctx, "qemu-system-aarch64", args...)
}
