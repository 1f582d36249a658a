package drivers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tape records samples with their time since the test began.
type tape struct {
	begun time.Time
	mu    sync.Mutex
	all   []string
}

func (r *tape) take(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%s ", time.Since(r.begun))
	switch s.Kind {
	case Fault:
		text += "fault"
	case Recovered:
		text += fmt.Sprintf("recovered after %s, missed %d", s.Reading.Time.Sub(s.Since), s.Missed)
	default:
		text += "reading"
	}
	r.all = append(r.all, text)
}

func (r *tape) want(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.all = nil
}

// sample records the samples of a sensor until the returned function is called.
func sample(t *testing.T, d *Devices, name string, every time.Duration) (*tape, func()) {
	t.Helper()
	r := &tape{begun: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Samples(ctx, name, every, r.take); err != nil {
			t.Errorf("samples: %v", err)
		}
	}()
	synctest.Wait()
	return r, func() { cancel(); <-done }
}

func TestOneReadingServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["greenhouse"]
		x.takes = 30 * time.Millisecond
		ten, stop1 := sample(t, d, "greenhouse", 10*time.Second)
		fifteen, stop2 := sample(t, d, "greenhouse", 15*time.Second)
		thirty, stop3 := sample(t, d, "greenhouse", 30*time.Second)
		time.Sleep(31 * time.Second)
		ten.want(t, "30ms reading", "10.03s reading", "20.03s reading", "30.03s reading")
		fifteen.want(t, "30ms reading", "15.03s reading", "30.03s reading")
		thirty.want(t, "30ms reading", "30.03s reading")
		if got := x.count(); got != 5 { // 0, 10, 15, 20, 30
			t.Errorf("read %d times, want 5", got)
		}
		// A question in between is answered by a reading of its own, one right after
		// another by the last.
		for range 3 {
			if _, err := d.ReadSensor(t.Context(), "greenhouse"); err != nil {
				t.Fatal(err)
			}
		}
		if got := x.count(); got != 6 {
			t.Errorf("read %d times, want 6", got)
		}
		stop1()
		stop2()
		stop3()
		time.Sleep(time.Minute)
		if got := x.count(); got != 6 {
			t.Errorf("read %d times, want 6: nobody listens", got)
		}
		// Who comes back is served at once, and at the same multiples.
		again, stop := sample(t, d, "greenhouse", 10*time.Second)
		time.Sleep(10 * time.Second)
		if got := x.times(); !got[len(got)-1].Equal(d.sensors["greenhouse"].epoch.Add(100 * time.Second)) {
			t.Errorf("read at %s", got[len(got)-1].Sub(d.sensors["greenhouse"].epoch))
		}
		again.want(t, "30ms reading", "9s reading")
		stop()
	})
}

func TestReadingsUnderWayAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["soil"]
		x.takes = 750 * time.Millisecond
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := d.ReadSensor(t.Context(), "soil"); err != nil {
					t.Error(err)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := d.ReadSensor(ctx, "soil"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that time is up", err)
		}
		wg.Wait()
		if got := x.count(); got != 1 {
			t.Errorf("read %d times, want once", got)
		}
	})
}

func TestAsOftenAsItConverts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["greenhouse"]
		x.takes = 33 * time.Millisecond
		r, stop := sample(t, d, "greenhouse", 50*time.Millisecond)
		time.Sleep(240 * time.Millisecond)
		r.want(t, "33ms reading", "83ms reading", "133ms reading", "183ms reading", "233ms reading")
		stop()
	})
}

func TestFaultAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["greenhouse"]
		r, stop := sample(t, d, "greenhouse", 10*time.Second)
		quick, stop2 := sample(t, d, "greenhouse", 5*time.Second)
		time.Sleep(6 * time.Second)
		x.fail(errors.New("nothing answers"))
		time.Sleep(4 * time.Second) // 10 s: it fails, and once more at once
		synctest.Wait()
		if got := x.count(); got != 4 {
			t.Errorf("read %d times, want 4", got)
		}
		if i := d.List()[3]; i.State != StateFault || !strings.Contains(i.Error, "nothing answers") || i.Value == "" {
			t.Errorf("shown as %+v", i)
		}
		if _, err := d.ReadSensor(t.Context(), "greenhouse"); !errors.Is(err, ErrFault) {
			t.Errorf("got %v, want ErrFault", err)
		}
		time.Sleep(5 * time.Minute)
		if got := x.count(); got > 12 {
			t.Errorf("read %d times in five minutes of fault", got)
		}
		x.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		r.mu.Lock()
		if len(r.all) < 4 || r.all[0] != "0s reading" || r.all[1] != "10s fault" || !strings.Contains(r.all[2], "recovered after") {
			t.Errorf("got %v", r.all)
		}
		if n := slices.IndexFunc(r.all[3:], func(s string) bool { return !strings.HasSuffix(s, " reading") }); n >= 0 {
			t.Errorf("got %v, want readings alone after the recovery", r.all)
		}
		r.mu.Unlock()
		quick.mu.Lock()
		if quick.all[2] != "10s fault" {
			t.Errorf("the other listener got %v", quick.all)
		}
		quick.mu.Unlock()
		stop()
		stop2()
	})
}

func TestOneFailureIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["greenhouse"]
		r, stop := sample(t, d, "greenhouse", 10*time.Second)
		x.takes = time.Second
		x.fail(errors.New("noise"))
		time.Sleep(10*time.Second + 500*time.Millisecond) // it is being read
		x.fail(nil)
		time.Sleep(2 * time.Second)
		r.want(t, "0s reading", "12s reading")
		stop()
	})
}

func TestNonsenseIsAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		m.sensors["greenhouse"].values[Quantity{"temperature", "C"}] = 300
		if _, err := d.ReadSensor(t.Context(), "greenhouse"); !errors.Is(err, ErrFault) || !strings.Contains(err.Error(), "300 C is nonsense") {
			t.Errorf("got %v, want ErrFault", err)
		}
	})
}

// A sensor that comes and goes with every reading is told of ever more rarely.
func TestFlappingIsNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		x := m.sensors["greenhouse"]
		x.flaps = true
		r, stop := sample(t, d, "greenhouse", time.Second)
		time.Sleep(10 * time.Minute)
		stop()
		r.mu.Lock()
		defer r.mu.Unlock()
		faults := 0
		for _, s := range r.all {
			if strings.HasSuffix(s, "fault") {
				faults++
			}
		}
		if faults < 3 || faults > 20 {
			t.Errorf("%d faults told in ten minutes", faults)
		}
	})
}

func TestWhoComesToAFaultIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		m.sensors["soil"].fail(errors.New("nothing answers"))
		r, stop := sample(t, d, "soil", time.Hour)
		r.want(t, "0s fault")
		time.Sleep(10 * time.Second)
		r2, stop2 := sample(t, d, "soil", time.Hour)
		r2.want(t, "0s fault")
		stop()
		stop2()
	})
}

func TestASlowListenerGetsTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := opened(t)
		free := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		r := &tape{begun: time.Now()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = d.Samples(ctx, "greenhouse", time.Second, func(s Sample) { <-free; r.take(s) })
		}()
		time.Sleep(10*time.Second + 500*time.Millisecond)
		m.sensors["greenhouse"].fail(errors.New("gone"))
		time.Sleep(10 * time.Second)
		close(free)
		synctest.Wait()
		r.want(t, "20.5s reading", "20.5s reading", "20.5s fault")
		cancel()
		<-done
	})
}

func TestSamplesRefuses(t *testing.T) {
	d, _ := opened(t)
	f := func(Sample) {}
	if err := d.Samples(t.Context(), "door", time.Second, f); !errors.Is(err, ErrUnknown) {
		t.Errorf("a line: %v, want ErrUnknown", err)
	}
	if err := d.Samples(t.Context(), "soil", 999*time.Millisecond, f); err == nil || !strings.Contains(err.Error(), "faster than a ds18b20 converts: use 1s or more") {
		t.Errorf("too fast: %v", err)
	}
}
