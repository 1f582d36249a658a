package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/node/api"
)

// Lines that the running node has are not a riddle: the hint says who else makes
// them safe.
func TestUnsafeLines(t *testing.T) {
	busy := fmt.Errorf("config.yaml:3: device \"relay\": %w: line gpiochip:x/17 is used by \"edgefn relay\"", drivers.ErrBusy)
	err := unsafeLines(errors.Join(busy, drivers.ErrUnknown))
	if !strings.Contains(api.Hint(err), "systemctl stop edgefn") || !errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), "used by") {
		t.Errorf("got %v, hint %q", err, api.Hint(err))
	}
	if err := unsafeLines(drivers.ErrUnknown); api.Hint(err) != "" {
		t.Errorf("hint %q", api.Hint(err))
	}
	if err := unsafeLines(nil); err != nil {
		t.Errorf("got %v", err)
	}
}
