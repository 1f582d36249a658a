package drivers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// listen has f called with the edges of the door until the returned function is
// called, which gives Edges' error.
func listen(t *testing.T, d *Devices, owner string, o EdgeOptions, f func(Edge)) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	begun, done := make(chan struct{}), make(chan error, 1)
	o.Begun = func() { close(begun) }
	go func() { done <- d.Edges(ctx, "door", owner, o, f) }()
	select {
	case <-begun:
	case err := <-done:
		t.Fatalf("edges: %v", err)
	}
	return func() error { cancel(); return <-done }
}

func brief(e Edge) string {
	return fmt.Sprintf("%v %d lost %d coalesced %d", e.On, e.Seq, e.Lost, e.Coalesced)
}

func TestEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		door := m.inputs["door"]
		var both, rising []string
		stopBoth := listen(t, d, "a", EdgeOptions{Rising: true, Falling: true}, func(e Edge) { both = append(both, brief(e)) })
		stopRising := listen(t, d, "b", EdgeOptions{Rising: true}, func(e Edge) { rising = append(rising, brief(e)) })
		if want := (Watch{Rising: true, Falling: true}); door.watch != want || door.watches != 1 {
			t.Errorf("watched for %+v, %d times; want %+v once", door.watch, door.watches, want)
		}
		door.edge(false, 0) // active low: this is on
		door.edge(true, 0)
		door.edge(false, 2) // the kernel had no room
		door.edge(true, 0)
		door.edge(false, 0)
		synctest.Wait()
		if diff := cmp.Diff([]string{
			"true 1 lost 0 coalesced 0", "false 2 lost 0 coalesced 0", "true 5 lost 2 coalesced 0", "false 6 lost 0 coalesced 0", "true 7 lost 0 coalesced 0",
		}, both); diff != "" {
			t.Errorf("both (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"true 1 lost 0 coalesced 0", "true 5 lost 2 coalesced 0", "true 7 lost 0 coalesced 0"}, rising); diff != "" {
			t.Errorf("rising (-want +got):\n%s", diff)
		}
		if i := d.List()[0]; i.Lost != 2 || i.Value != "on" {
			t.Errorf("shown as %+v, want 2 lost", i)
		}
		if err := stopBoth(); err != nil {
			t.Errorf("edges: %v", err)
		}
		if want := (Watch{Falling: true}); door.watch != want { // rising edges of an active-low line
			t.Errorf("watched for %+v, want %+v", door.watch, want)
		}
		if err := stopRising(); err != nil {
			t.Errorf("edges: %v", err)
		}
		if door.f != nil {
			t.Error("watched, though nobody listens")
		}
	})
}

func TestEdgesOfAnotherWatchAreOfAnotherLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		var all []Edge
		stop := listen(t, d, "a", EdgeOptions{Rising: true}, func(e Edge) { all = append(all, e) })
		m.inputs["door"].edge(false, 0)
		synctest.Wait()
		time.Sleep(time.Second)
		stop2 := listen(t, d, "b", EdgeOptions{Falling: true}, func(Edge) {})
		m.inputs["door"].edge(false, 0)
		synctest.Wait()
		if len(all) != 2 || all[0].Seq != 1 || all[1].Seq != 1 || !all[1].Opened.After(all[0].Opened) {
			t.Errorf("got %+v, want two edges numbered 1 with another Opened", all)
		}
		_, _ = stop(), stop2()
	})
}

func TestEdgesWaitForAFunctionThatIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		free := make(chan struct{})
		var all []Edge
		stop := listen(t, d, "a", EdgeOptions{Rising: true, Falling: true}, func(e Edge) { <-free; all = append(all, e) })
		var fast int
		stop2 := listen(t, d, "b", EdgeOptions{Rising: true, Falling: true}, func(Edge) { fast++ })
		const n = 1500
		for i := range n {
			m.inputs["door"].edge(i%2 == 0, 0)
			synctest.Wait()
		}
		if fast != n {
			t.Errorf("%d edges came to the one that is not busy, want %d", fast, n)
		}
		close(free)
		synctest.Wait()
		sum := uint64(0)
		for _, e := range all {
			sum += 1 + e.Lost
		}
		if sum != n || len(all) != maxEdges+1 {
			t.Errorf("%d edges given, %d accounted for; want %d and %d", len(all), sum, maxEdges+1, n)
		}
		if i := d.List()[0]; i.Lost != n-maxEdges-1 {
			t.Errorf("shown are %d lost, want %d", i.Lost, n-maxEdges-1)
		}
		_, _ = stop(), stop2()
	})
}

func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		free := make(chan struct{})
		var all []string
		stop := listen(t, d, "a", EdgeOptions{Rising: true, Falling: true, Coalesce: true}, func(e Edge) { <-free; all = append(all, brief(e)) })
		for i := range 6 {
			m.inputs["door"].edge(i%2 == 1, 0)
			synctest.Wait()
		}
		close(free)
		synctest.Wait()
		if diff := cmp.Diff([]string{"true 1 lost 0 coalesced 0", "false 6 lost 0 coalesced 4"}, all); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		_ = stop()
	})
}

func TestOneDebouncePerLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		o := EdgeOptions{Rising: true, Debounce: 10 * time.Millisecond}
		stop := listen(t, d, "a", o, func(Edge) {})
		other := EdgeOptions{Rising: true, Debounce: 20 * time.Millisecond}
		for _, err := range []error{d.CanListen("door", "b", other), d.Edges(t.Context(), "door", "b", other, func(Edge) {})} {
			if !errors.Is(err, ErrShared) || !strings.Contains(err.Error(), `function "a" listens to "door" with debounce 10ms`) {
				t.Errorf("got %v, want ErrShared", err)
			}
		}
		if err := d.CanListen("door", "b", o); err != nil {
			t.Errorf("the same debounce: %v", err)
		}
		// A new version of the function itself may want another.
		stop2 := listen(t, d, "a", other, func(Edge) {})
		if got := m.inputs["door"].watch.Debounce; got != other.Debounce {
			t.Errorf("debounce is %s, want the new one", got)
		}
		_ = stop()
		if got := m.inputs["door"].watch.Debounce; got != other.Debounce {
			t.Errorf("debounce is %s once the old version has gone, want the new one", got)
		}
		_ = stop2()
	})
}

func TestLineThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		done := make(chan error, 1)
		go func() { done <- d.Edges(t.Context(), "door", "a", EdgeOptions{Rising: true}, func(Edge) {}) }()
		synctest.Wait()
		m.inputs["door"].lose(fmt.Errorf("%w: no such device", ErrFault))
		if err := <-done; !errors.Is(err, ErrFault) || !strings.Contains(err.Error(), `line "door"`) {
			t.Errorf("got %v, want ErrFault", err)
		}
		if i := d.List()[0]; i.State != StateOK { // it can be read, and nobody listens any more
			t.Errorf("shown as %+v", i)
		}
		m.inputs["door"].refuse = fmt.Errorf("%w: still gone", ErrFault)
		if err := d.Edges(t.Context(), "door", "a", EdgeOptions{Rising: true}, func(Edge) {}); !errors.Is(err, ErrFault) {
			t.Errorf("got %v, want ErrFault", err)
		}
		m.inputs["door"].refuse = nil
		var got int
		stop := listen(t, d, "a", EdgeOptions{Rising: true}, func(Edge) { got++ })
		m.inputs["door"].edge(false, 0)
		synctest.Wait()
		if i := d.List()[0]; got != 1 || i.State != StateOK {
			t.Errorf("%d edges after the line came back, shown as %+v", got, i)
		}
		_ = stop()
	})
}

// One whom the hardware refuses takes nothing from those who listen already.
func TestListenerThatTheHardwareRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		door := m.inputs["door"]
		done, got := make(chan error, 1), 0
		go func() { done <- d.Edges(t.Context(), "door", "a", EdgeOptions{Rising: true}, func(Edge) { got++ }) }()
		synctest.Wait()
		door.both = fmt.Errorf("%w: one direction at a time", ErrFault)
		refused := func() {
			t.Helper()
			if err := d.Edges(t.Context(), "door", "b", EdgeOptions{Rising: true, Falling: true}, func(Edge) {}); !errors.Is(err, ErrFault) {
				t.Errorf("got %v, want ErrFault", err)
			}
		}
		refused()
		door.edge(false, 0)
		synctest.Wait()
		if i := d.List()[0]; got != 1 || i.State != StateOK {
			t.Errorf("%d edges after another was refused, want 1; shown as %+v", got, i)
		}
		door.refuse = fmt.Errorf("%w: no such device", ErrFault)
		refused()
		if err := <-done; !errors.Is(err, ErrFault) {
			t.Errorf("got %v, want ErrFault for the one that listened", err)
		}
	})
}

func TestBlindEdgesAreNumberedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		m.inputs["door"].blind = true
		var all []Edge
		stop := listen(t, d, "a", EdgeOptions{Rising: true, Falling: true}, func(e Edge) { all = append(all, e) })
		m.inputs["door"].edge(false, 0)
		m.inputs["door"].edge(true, 5)
		synctest.Wait()
		if len(all) != 2 || all[1].Seq != 2 || !all[1].Blind || all[1].Lost != 0 {
			t.Errorf("got %+v", all)
		}
		_ = stop()
	})
}

func TestEdgesRefuses(t *testing.T) {
	d, _ := opened(t)
	f := func(Edge) {}
	for name, err := range map[string]error{
		"an output": d.Edges(t.Context(), "relay", "a", EdgeOptions{Rising: true}, f),
		"a sensor":  d.Edges(t.Context(), "soil", "a", EdgeOptions{Rising: true}, f),
		"unknown":   d.Edges(t.Context(), "dor", "a", EdgeOptions{Rising: true}, f),
	} {
		if !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, want ErrUnknown", name, err)
		}
	}
	if err := d.Edges(t.Context(), "door", "a", EdgeOptions{}, f); err == nil {
		t.Error("listening to nothing is no error")
	}
}

func TestCloseEndsListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := opened(t)
		done := make(chan error, 2)
		go func() { done <- d.Edges(t.Context(), "door", "a", EdgeOptions{Rising: true}, func(Edge) {}) }()
		go func() { done <- d.Samples(t.Context(), "soil", time.Minute, func(Sample) {}) }()
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
	})
}
