package gateway

import (
	"slices"
	"strings"
	"testing"
)

// QEMU gives every network card a ROM to boot from unless it is told not to,
// and the ROMs are in a package that QEMU's only recommends.
func TestNoROMIsNeeded(t *testing.T) {
	args := qemu(t.Context(), boot{ssh: 2222}).Args
	if !slices.ContainsFunc(args, func(arg string) bool { return strings.Contains(arg, "netdev=net") }) {
		t.Fatalf("no network card in %q", args)
	}
	for _, arg := range args {
		if strings.Contains(arg, ",netdev=") && !slices.Contains(strings.Split(arg, ","), "romfile=") {
			t.Errorf("the device %s wants a ROM", arg)
		}
	}
}
