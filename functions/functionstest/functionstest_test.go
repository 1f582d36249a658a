package functionstest_test

import (
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/functionstest"
)

// TestDirect runs the suite of every runtime with no sandbox around it.
func TestDirect(t *testing.T) {
	h := functionstest.NewDirect(t)
	for _, r := range functions.Runtimes {
		t.Run(string(r), func(t *testing.T) { functionstest.Run(t, h, r) })
	}
}
