// Package gateway builds and runs the testbed's gateway: one emulated arm64
// machine with Debian on it, an unmodified kernel that has gpio-sim, and
// simulated hardware (package hardware). It is a machine as people buy it:
// systemd, ssh, python3 and no containerd yet, which `apt install` finds in an
// archive of the machine's own.
//
// # How it comes about
//
// Build resolves and downloads packages with an apt that has a state of its
// own, from the Debian mirror that this machine uses and verified by Debian's
// keyring. They are unpacked here by dpkg and configured in the emulated
// machine's first boot, which takes a few minutes. The outcome is kept in a
// folder of the cache, named for the recipe: a later Build finds it and needs
// no network. Start boots it with a disk that forgets what is written, in
// about half a minute, and lays the run's own files over it: keys, the
// hardware program.
//
// QEMU translates every instruction: /dev/kvm is never used, since it opens
// and does not work on some machines. Nothing of the guest reaches out, and
// only its ssh can be reached, on a loopback port.
package gateway
