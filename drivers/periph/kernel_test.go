package periph

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warthog618/go-gpiosim"
	"periph.io/x/conn/v3/gpio/gpioreg"

	"github.com/edgefn/edgefn/drivers"
)

// mustRun names the variable that makes the tests of the kernel's lines fail,
// rather than skip, where the kernel has no gpio-sim.
const mustRun = "EDGEFN_TEST_KERNEL"

// simulated is a chip of the kernel's own making, real to everybody but the tester.
func simulated(t *testing.T, label string) (*gpiosim.Sim, *gpiosim.Chip) {
	t.Helper()
	s, err := gpiosim.NewSim(gpiosim.WithName("edgefn-"+label), gpiosim.WithBank(gpiosim.NewBank(label, 8,
		gpiosim.WithNamedLine(0, "BUTTON"), gpiosim.WithNamedLine(1, "LAMP1"), gpiosim.WithNamedLine(2, "VALVE"),
		gpiosim.WithNamedLine(3, "HOG"), gpiosim.WithHoggedLine(3, "piggy", gpiosim.HogDirectionOutputLow),
		gpiosim.WithNamedLine(5, "PIN"))))
	if err != nil {
		if os.Getenv(mustRun) != "" {
			t.Fatal(err)
		}
		t.Skipf("this kernel simulates no lines (CONFIG_GPIO_SIM): %v", err)
	}
	return s, &s.Chips[0]
}

// The kernel's real lines, from below the driver to Devices. One test: periph
// looks at a machine once in a process.
func TestKernelLines(t *testing.T) {
	s, c := simulated(t, "edgefn-sim")
	defer func() { s.Close() }()
	level := func(offset int) int {
		t.Helper()
		l, err := c.Level(offset)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	pull := func(offset, level int) {
		t.Helper()
		if err := c.SetPull(offset, level); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("found", func(t *testing.T) {
		d := New(Config{})
		for line, want := range map[string]string{
			"BUTTON":                          "gpiochip:edgefn-sim/0",
			"gpiochip:edgefn-sim/4":           "gpiochip:edgefn-sim/4",
			"gpiochip:" + c.ChipName() + "/1": "gpiochip:edgefn-sim/1",
			"BUTTN":                           "near are BUTTON",
			"gpiochip:edgefn-sin/4":           "near are edgefn-sim",
			"gpiochip:edgefn-sim/8":           "no 8",
		} {
			got, err := d.Find(drivers.Spec{Line: line})
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s: got %s, want %s", line, got, want)
			}
		}
		found, err := d.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lines := map[string]drivers.Found{}
		for _, f := range found {
			lines[f.At] = f
		}
		if f := lines["gpiochip:edgefn-sim/3"]; f.Name != "HOG" || f.UsedBy != "piggy" {
			t.Errorf("found %+v", f)
		}
		if f := lines["gpiochip:edgefn-sim/4"]; f.UsedBy != "" || f.Config == "" {
			t.Errorf("found %+v", f)
		}
	})

	t.Run("refused", func(t *testing.T) {
		d, err := drivers.New(drivers.Config{Driver: New(Config{}), Specs: []drivers.Spec{
			{Name: "a", Where: "c:1", Line: "BUTTON"},
			{Name: "b", Where: "c:2", Line: "gpiochip:edgefn-sim/0"},
			{Name: "c", Where: "c:3", Line: "HOG"},
			{Name: "d", Where: "c:4", Line: "VALVE", Direction: drivers.Out, Safe: drivers.High, Initial: drivers.Low},
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Open(t.Context())
		for _, want := range []string{
			`c:2: device "b": gpiochip:edgefn-sim/0 is gpiochip:edgefn-sim/0, and that has a name already: "a"`,
			`c:3: device "c": line is in use: line gpiochip:edgefn-sim/3 is used by "piggy"`,
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in\n%v", want, err)
			}
		}
	})

	specs := []drivers.Spec{
		{Name: "door", Line: "BUTTON"},
		{Name: "bell", Line: "gpiochip:edgefn-sim/4", Pull: drivers.PullUp, ActiveLow: true},
		{Name: "relay", Line: "LAMP1", Direction: drivers.Out, Safe: drivers.Low, Initial: drivers.High},
		{Name: "valve", Line: "VALVE", Direction: drivers.Out, Safe: drivers.High, ActiveLow: true},
	}
	d, err := drivers.New(drivers.Config{Driver: New(Config{}), Specs: specs})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }() // no error in the second time

	// listen has the edges of a line come to a channel until the test is over.
	listen := func(t *testing.T, line string, o drivers.EdgeOptions, f func(drivers.Edge)) (stop func() error) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		begun, ended := make(chan struct{}), make(chan error, 1)
		o.Begun = func() { close(begun) }
		go func() { ended <- d.Edges(ctx, line, "test", o, f) }()
		select {
		case <-begun:
		case err := <-ended:
			t.Fatal(err)
		}
		return func() error { cancel(); return <-ended }
	}

	t.Run("outputs", func(t *testing.T) {
		if level(1) != 1 || level(2) != 1 {
			t.Errorf("levels %d %d, want the initial and the safe one", level(1), level(2))
		}
		if err := errors.Join(d.Hold("f", []drivers.Lease{{Line: "relay"}, {Line: "valve"}}), d.Set(t.Context(), "f", "relay", false), d.Set(t.Context(), "f", "valve", true)); err != nil {
			t.Fatal(err)
		}
		if level(1) != 0 || level(2) != 0 {
			t.Errorf("levels %d %d, want what was commanded", level(1), level(2))
		}
		if err := drivers.Safe(t.Context(), specs, New(Config{}), nil); !errors.Is(err, drivers.ErrBusy) || !strings.Contains(err.Error(), `used by "edgefn relay"`) {
			t.Errorf("safe beside the node: %v, want that we are in the way", err)
		}
		if err := d.Set(t.Context(), "f", "relay", true); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("levels", func(t *testing.T) {
		for _, want := range []bool{true, false} {
			pull(0, map[bool]int{true: 1}[want])
			if on, err := d.ReadLine(t.Context(), "door"); on != want || err != nil {
				t.Errorf("read %v %v, want %v", on, err, want)
			}
		}
		if on, err := d.ReadLine(t.Context(), "bell"); on || err != nil {
			t.Errorf("read %v %v, want off: it is pulled up, and active low", on, err)
		}
	})

	t.Run("edges", func(t *testing.T) {
		const n = 200
		all := make(chan drivers.Edge, n)
		stop := listen(t, "door", drivers.EdgeOptions{Rising: true, Falling: true}, func(e drivers.Edge) { all <- e })
		begun := time.Now()
		var last time.Duration
		for i := range n { // one after the other: the kernel reads the level when it gets to it
			pull(0, (i+1)%2)
			select {
			case e := <-all:
				if e.Seq != uint64(i+1) || e.Lost != 0 || e.On != (i%2 == 0) || e.Kernel <= last || e.Blind {
					t.Fatalf("edge %d is %+v", i+1, e)
				}
				if e.Time.Before(begun.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
					t.Fatalf("edge at %s, at the time of %s", e.Time, begun)
				}
				last = e.Kernel
			case <-time.After(10 * time.Second):
				t.Fatalf("edge %d did not come", i+1)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})

	t.Run("debounce", func(t *testing.T) {
		all := make(chan drivers.Edge, 100)
		stop := listen(t, "bell", drivers.EdgeOptions{Rising: true, Falling: true, Debounce: 50 * time.Millisecond}, func(e drivers.Edge) { all <- e })
		for i := range 9 { // ends low: on
			pull(4, i%2)
		}
		select {
		case e := <-all:
			if !e.On || e.High || e.Seq != 1 {
				t.Errorf("got %+v", e)
			}
		case <-time.After(10 * time.Second):
			t.Error("no edge")
		}
		select {
		case e := <-all:
			t.Errorf("another edge: %+v", e)
		case <-time.After(300 * time.Millisecond):
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})

	t.Run("the kernel's buffer is full", func(t *testing.T) {
		const buffer = 64 // a small one: a slow machine takes its time to fill it
		small := New(Config{})
		small.buffer = buffer
		dev, err := small.Input(drivers.Spec{Name: "slow", Line: "gpiochip:edgefn-sim/6"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = dev.Close() }()
		const n = 500
		free, seen := make(chan struct{}), make(chan uint32, n)
		stop, err := dev.Watch(drivers.Watch{Rising: true, Falling: true}, func(e drivers.RawEdge, err error) {
			if err != nil {
				t.Error(err)
			}
			seen <- e.Seq
			<-free
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			pull(6, (i+1)%2)
			time.Sleep(200 * time.Microsecond) // the kernel makes one edge of two that it gets to at once
		}
		close(free)
		got, last := 0, uint32(0)
		for quiet := false; !quiet; {
			select {
			case seq := <-seen:
				if seq <= last {
					t.Fatalf("edge %d after %d", seq, last)
				}
				got, last = got+1, seq
			case <-time.After(2 * time.Second):
				quiet = true
			}
		}
		if got < buffer || got > 2*buffer || uint32(got) >= last || last > n {
			t.Errorf("%d edges came, the last is numbered %d of %d; want those that the buffer holds, %d, and a gap", got, last, n, buffer)
		}
		t.Logf("%d edges, %d seen by the kernel, %d came", n, last, got)
		stop()
	})

	t.Run("a pin of periph's", func(t *testing.T) {
		pin := gpioreg.ByName("PIN")
		if pin == nil {
			t.Fatal("periph does not know the line")
		}
		i, err := newPinInput(drivers.Spec{Name: "pin"}, pin)
		if err != nil {
			t.Fatal(err)
		}
		all := make(chan drivers.RawEdge, 10)
		stop, err := i.Watch(drivers.Watch{Rising: true, Falling: true}, func(e drivers.RawEdge, err error) {
			if err != nil {
				t.Error(err)
			}
			all <- e
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			pull(5, map[bool]int{true: 1}[want])
			select {
			case e := <-all:
				if e.Rising != want {
					t.Errorf("got %+v", e)
				}
			case <-time.After(10 * time.Second):
				t.Error("no edge")
			}
		}
		stop()
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})

	t.Run("the chip is taken away", func(t *testing.T) {
		ended := make(chan error, 1)
		begun := make(chan struct{})
		go func() {
			ended <- d.Edges(t.Context(), "door", "test", drivers.EdgeOptions{Rising: true, Begun: func() { close(begun) }}, func(drivers.Edge) {})
		}()
		<-begun
		s.Close()
		select {
		case err := <-ended:
			if !errors.Is(err, drivers.ErrFault) {
				t.Errorf("got %v, want ErrFault", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the listener is not told")
		}
		if err := d.Set(t.Context(), "f", "relay", false); err == nil {
			t.Error("an output that is gone takes a command")
		}
		s, c = simulated(t, "edgefn-sim")
		all := make(chan drivers.Edge, 1)
		stop := listen(t, "door", drivers.EdgeOptions{Rising: true}, func(e drivers.Edge) { all <- e })
		pull(0, 1)
		select {
		case <-all:
		case <-time.After(10 * time.Second):
			t.Error("no edge from the chip that came back")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := d.Set(t.Context(), "f", "relay", true); err != nil || level(1) != 1 {
			t.Errorf("the output of the chip that came back: %v, level %d", err, level(1))
		}
	})

	t.Run("the end", func(t *testing.T) {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := drivers.Safe(t.Context(), specs, New(Config{}), nil); err != nil {
			t.Errorf("the lines are not let go of: %v", err)
		}
	})
}
