package sandbox_test

import (
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/sandbox"
)

// Functions whose files are the same share their layers in containerd. What is
// removed with one of them must not be what another one runs from.
func TestRemoveLeavesSharedLayers(t *testing.T) {
	h := host(t, nil)
	named := func(name string) sandbox.Spec {
		return probeSpec(t, h, func(f *functions.Function) { f.Name = name })
	}
	first, second, third := named("first"), named("second"), named("third")
	a := run(t, h, first)
	must(t, a.Check(t.Context()))
	b := run(t, h, second) // finds the layer unpacked
	must(t, b.Check(t.Context()))
	must(t, h.Remove(t.Context(), first.Version))
	for _, tt := range []struct {
		name string
		p    *probe
	}{
		{"a sandbox that is there", b},
		{"a new sandbox", run(t, h, second)},
		{"the first sandbox", run(t, h, third)},
		{"a sandbox of what is removed", a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := tt.p.do(t, "read", unreadFile); err != nil {
				t.Error(err)
			}
		})
	}
}
