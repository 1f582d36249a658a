package sim_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/drivers/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func opened(t *testing.T) (*drivers.Devices, *sim.Driver) {
	t.Helper()
	s := sim.New()
	d, err := drivers.New(drivers.Config{Driver: s, Specs: []drivers.Spec{
		{Name: "door", Line: "GPIO17", ActiveLow: true},
		{Name: "relay", Line: "GPIO18", Direction: drivers.Out, Safe: drivers.High},
		{Name: "greenhouse", Sensor: "bme280", Bus: "i2c-1"},
		{Name: "adc", Sensor: "ads1115", Bus: "i2c-1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, s
}

func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := opened(t)
		ctx, cancel := context.WithCancel(t.Context())
		var edges []drivers.Edge
		done := make(chan error)
		go func() {
			done <- d.Edges(ctx, "door", "f", drivers.EdgeOptions{Rising: true, Falling: true}, func(e drivers.Edge) { edges = append(edges, e) })
		}()
		synctest.Wait()
		for _, on := range []bool{true, true, false} { // the second changes nothing
			if err := s.SetLine("door", on); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(edges) != 2 || !edges[0].On || edges[0].High || edges[1].On || edges[1].Seq != 2 || edges[1].Lost != 0 {
			t.Errorf("got %+v", edges)
		}
		if err := s.Fail("door", fmt.Errorf("%w: cut", drivers.ErrFault)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, drivers.ErrFault) {
			t.Errorf("edges of a line that fails: %v", err)
		}
		if _, err := d.ReadLine(t.Context(), "door"); !errors.Is(err, drivers.ErrFault) {
			t.Errorf("read: %v", err)
		}
		if err := s.Fail("door", nil); err != nil {
			t.Fatal(err)
		}
		if err := s.SetLine("door", true); err != nil {
			t.Fatal(err)
		}
		if on, err := d.ReadLine(t.Context(), "door"); !on || err != nil {
			t.Errorf("read: %v %v", on, err)
		}
		cancel()
	})
}

func TestOutputs(t *testing.T) {
	d, s := opened(t)
	if err := d.Hold("f", []drivers.Lease{{Line: "relay"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Set(t.Context(), "f", "relay", false); err != nil {
		t.Fatal(err)
	}
	if high, err := s.Level("relay"); high || err != nil {
		t.Errorf("level %v %v, want low", high, err)
	}
	if err := s.SetLine("relay", true); err == nil {
		t.Error("an output can be moved from outside")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if high, err := s.Level("relay"); !high || err != nil {
		t.Errorf("level %v %v after the end, want safe", high, err)
	}
}

func TestSensors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := opened(t)
		read := func(name string) (drivers.Reading, error) {
			time.Sleep(time.Second)
			return d.ReadSensor(t.Context(), name)
		}
		temperature := drivers.Quantity{Name: "temperature", Unit: "C"}
		r, err := read("greenhouse")
		if err != nil || len(r.Values) != 3 {
			t.Fatalf("got %v %v", r, err)
		}
		for _, key := range []string{"temperature", "temperature_C"} {
			if err := s.SetSensor("greenhouse", key, 31); err != nil {
				t.Fatal(err)
			}
		}
		if r, err = read("greenhouse"); err != nil || r.Values[temperature] != 31 {
			t.Errorf("got %v %v", r, err)
		}
		if err := s.Fail("greenhouse", fmt.Errorf("%w: unplugged", drivers.ErrFault)); err != nil {
			t.Fatal(err)
		}
		if _, err = read("greenhouse"); !errors.Is(err, drivers.ErrFault) {
			t.Errorf("got %v, want ErrFault", err)
		}
		if err := s.Fail("greenhouse", nil); err != nil {
			t.Fatal(err)
		}
		if _, err = read("greenhouse"); err != nil {
			t.Errorf("got %v", err)
		}
		if r, err = read("adc"); err != nil || len(r.Values) != 4 {
			t.Errorf("got %v %v", r, err)
		}
	})
}

func TestWhatIsNotThere(t *testing.T) {
	_, s := opened(t)
	bus := func() error { _, err := s.Bus("i2c-1"); return err }
	for want, err := range map[string]error{
		"near are door":       s.SetLine("dor", true),
		"near are greenhouse": s.SetSensor("greenhous", "temperature", 1),
		`has no "wind"`:       s.SetSensor("greenhouse", "wind", 1),
		"simulated":           bus(),
		"":                    s.Fail("rdoor", nil),
	} {
		if !errors.Is(err, drivers.ErrUnknown) {
			t.Errorf("got %v, want ErrUnknown", err)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

func TestWhatIsOfAnotherKind(t *testing.T) {
	_, s := opened(t)
	for want, err := range map[string]error{
		`"greenhouse" is a sensor: give it a value, such as temperature=21.5`: s.SetLine("greenhouse", true),
		`"door" is a line: it can be on or off`:                               s.SetSensor("door", "temperature", 1),
	} {
		if err == nil || errors.Is(err, drivers.ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
