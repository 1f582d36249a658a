package periph

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpiotest"

	"github.com/edgefn/edgefn/drivers"
)

// pinned is an input on a pin that only periph has.
func pinned(t *testing.T, pull drivers.Pull) (drivers.Input, *gpiotest.Pin) {
	t.Helper()
	p := &gpiotest.Pin{N: "GPIO512", EdgesChan: make(chan gpio.Level)}
	d := New(Config{})
	d.chips = func() ([]chip, error) { return nil, nil }
	d.pin = func(string) gpio.PinIO { return p }
	i, err := d.Input(drivers.Spec{Name: "door", Line: "GPIO512", Pull: pull})
	if err != nil {
		t.Fatal(err)
	}
	return i, p
}

func TestPinEdges(t *testing.T) {
	tests := []struct {
		name  string
		watch drivers.Watch
		moves []gpio.Level
		gap   time.Duration
		want  []string
	}{
		{"both", drivers.Watch{Rising: true, Falling: true}, []gpio.Level{true, false, true}, time.Second, []string{"true", "false", "true"}},
		{"rising", drivers.Watch{Rising: true}, []gpio.Level{true}, time.Second, []string{"true"}},
		{"falling", drivers.Watch{Falling: true}, []gpio.Level{false}, time.Second, []string{"false"}},
		{"bounces, and ends high", drivers.Watch{Rising: true, Falling: true, Debounce: 10 * time.Millisecond}, []gpio.Level{true, false, true, false, true}, time.Millisecond, []string{"true"}},
		{"bounces, and ends where it was", drivers.Watch{Rising: true, Falling: true, Debounce: 10 * time.Millisecond}, []gpio.Level{true, false, true, false}, time.Millisecond, nil},
		{"settles the other way", drivers.Watch{Rising: true, Debounce: 10 * time.Millisecond}, []gpio.Level{true, false}, time.Second, []string{"true"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, p := pinned(t, "")
				if !i.Blind() {
					t.Error("loss can be seen, it says")
				}
				var got []string
				stop, err := i.Watch(tt.watch, func(e drivers.RawEdge, err error) {
					if err != nil || e.Seq != 0 || e.Kernel == 0 {
						t.Errorf("got %+v, %v", e, err)
					}
					got = append(got, fmt.Sprint(e.Rising))
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range tt.moves {
					p.EdgesChan <- l
					time.Sleep(tt.gap)
				}
				time.Sleep(time.Second)
				stop()
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if err := i.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// deadPin is a pin whose chip is gone: periph returns at once, for ever.
type deadPin struct {
	*gpiotest.Pin
	waits int
}

func (p *deadPin) In(gpio.Pull, gpio.Edge) error  { return nil }
func (p *deadPin) WaitForEdge(time.Duration) bool { p.waits++; return false }

func TestPinThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &deadPin{Pin: &gpiotest.Pin{N: "GPIO512"}}
		i, err := newPinInput(drivers.Spec{Name: "door"}, p)
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		begun := time.Now()
		stop, err := i.Watch(drivers.Watch{Rising: true}, func(_ drivers.RawEdge, err error) { failed <- err })
		if err != nil {
			t.Fatal(err)
		}
		if err := <-failed; !errors.Is(err, drivers.ErrFault) || !strings.Contains(err.Error(), "returns at once") {
			t.Errorf("got %v, want ErrFault", err)
		}
		if took := time.Since(begun); took < 5*time.Second || took > 30*time.Second || p.waits > 30 {
			t.Errorf("given up after %s and %d waits", took, p.waits)
		}
		stop()
	})
}

func TestPinPullsAndLevels(t *testing.T) {
	for pull, want := range map[drivers.Pull]gpio.Pull{"": gpio.PullNoChange, drivers.PullUp: gpio.PullUp, drivers.PullDown: gpio.PullDown, drivers.PullOff: gpio.Float} {
		i, p := pinned(t, pull)
		if p.P != want {
			t.Errorf("pull %q: got %s, want %s", pull, p.P, want)
		}
		if high, err := i.Read(); err != nil || high != (pull == drivers.PullUp) {
			t.Errorf("pull %q: read %v %v", pull, high, err)
		}
	}
}

func TestPinOutput(t *testing.T) {
	p := &gpiotest.Pin{N: "GPIO512"}
	d := New(Config{})
	d.chips = func() ([]chip, error) { return nil, nil }
	d.pin = func(string) gpio.PinIO { return p }
	o, err := d.Output(drivers.Spec{Name: "relay", Line: "GPIO512"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if p.L != gpio.High {
		t.Error("it does not have its first level")
	}
	if err := o.Set(false); err != nil || p.L != gpio.Low {
		t.Errorf("level %s, %v", p.L, err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}
