package cell

import (
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// A 32-bit machine has second forms of calls, with ids or times that are wide
// enough, and its C library uses those: what is denied is denied in both.
func TestDeniedInEveryForm(t *testing.T) {
	for _, name := range []string{"amd64", "arm64", "arm", "386"} {
		info, err := arch.GetInfo(name)
		if err != nil {
			t.Fatal(err)
		}
		for call := range info.SyscallNames {
			for _, suffix := range []string{"32", "64"} {
				base, ok := strings.CutSuffix(call, suffix)
				if ok && slices.Contains(denied, base) && !slices.Contains(denied, call) {
					t.Errorf("%s: %s is denied and %s is not", name, base, call)
				}
			}
		}
		if _, ok := info.SyscallNames["mount"]; !ok {
			t.Errorf("%s: the table has no mount", name)
		}
	}
}
