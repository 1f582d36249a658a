package drivers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sensor is a sensor with those who listen to it.
type sensor struct {
	spec  Spec
	typ   SensorType
	log   *slog.Logger
	epoch time.Time // readings happen at multiples of every from here

	changed chan struct{} // one token: taps came or left

	mu      sync.Mutex
	dev     Sensor // nil: not open
	flight  *flight
	begun   time.Time // when the last reading began
	health  health
	last    Reading // of the last success
	lastErr error   // of the last failure; nil: the last reading was good
	taps    []*tap
	running bool // sample runs
}

// tap is one call of Samples.
type tap struct {
	every   time.Duration
	due     time.Time     // when it wants the next reading
	seen    time.Time     // of the last reading that it was given
	waiting []Sample      // at most maxSamples and one
	more    chan struct{} // one token: there is something in waiting
}

// flight is a reading that is under way; whoever wants one meanwhile waits for
// it.
type flight struct {
	done    chan struct{}
	reading Reading
	err     error
}

func newSensor(s Spec, typ SensorType, log *slog.Logger) *sensor {
	return &sensor{spec: s, typ: typ, log: log.With(keyDevice, s.Name), changed: make(chan struct{}, 1)}
}

func (s *sensor) open(d Driver) error {
	dev, err := d.Sensor(s.spec)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dev, s.epoch = dev, time.Now()
	return nil
}

// close lets go of the sensor. Readings under way have ended.
func (s *sensor) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dev == nil {
		return nil
	}
	err := s.dev.Close()
	s.dev = nil
	return err
}

// read returns a reading as ask has it, or ctx's error if that comes first.
func (s *sensor) read(ctx context.Context, start func(func()) bool, fresh func(now time.Time) bool) (Reading, error) {
	f := s.ask(start, fresh)
	select {
	case <-f.done:
		return f.reading.clone(), f.err
	case <-ctx.Done():
		return Reading{}, fmt.Errorf("read sensor %q: %w", s.spec.Name, ctx.Err())
	}
}

// ask gives the last reading if fresh says that it will do, or the one that is
// under way, or begins one. start runs a function on a goroutine that closing
// waits for.
func (s *sensor) ask(start func(func()) bool, fresh func(now time.Time) bool) *flight {
	over := make(chan struct{})
	close(over)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case s.dev == nil:
		return &flight{done: over, err: ErrClosed}
	case s.flight != nil:
		return s.flight
	case !s.health.tried.IsZero() && fresh(now):
		if s.lastErr != nil {
			return &flight{done: over, err: s.lastErr}
		}
		return &flight{done: over, reading: s.last}
	}
	f, dev := &flight{done: make(chan struct{})}, s.dev
	if !start(func() { s.fly(dev, f) }) {
		return &flight{done: over, err: ErrClosed}
	}
	s.flight, s.begun = f, now
	return f
}

// young: the last reading ended less than a conversion ago. It will do for
// somebody who just asks. The caller holds mu.
func (s *sensor) young(now time.Time) bool { return now.Sub(s.health.tried) < s.typ.MinEvery }

// early: the last reading began less than half a conversion ago, so it is one
// that somebody else asked for at the same time. The caller holds mu.
func (s *sensor) early(now time.Time) bool { return now.Sub(s.begun) < s.typ.MinEvery/2 }

// fly makes one reading, with one more try if the sensor has worked until now.
func (s *sensor) fly(dev Sensor, f *flight) {
	values, err := s.measure(dev)
	s.mu.Lock()
	again := err != nil && s.health.failed == 0
	s.mu.Unlock()
	if again {
		values, err = s.measure(dev)
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight = nil
	s.lastErr = err
	if err != nil {
		f.err = err
		if s.health.failure(now, s.every()) {
			s.log.Warn("sensor does not work", keyErr, err)
			s.tell(Sample{Kind: Fault, Err: err, Since: s.health.since})
		}
		return
	}
	s.last = Reading{Time: now, Values: values}
	f.reading = s.last
	if since, missed, news := s.health.success(now); news {
		s.log.Info("sensor works again", "missed", missed)
		s.tell(Sample{Kind: Recovered, Reading: s.last.clone(), Since: since, Missed: missed})
	}
}

func (s *sensor) measure(dev Sensor) (map[Quantity]float64, error) {
	values, err := dev.Read()
	if err == nil {
		err = s.typ.Check(values)
	}
	if err == nil {
		return values, nil
	}
	if !errors.Is(err, ErrFault) {
		err = fmt.Errorf("%w: %w", ErrFault, err)
	}
	return nil, fmt.Errorf("read sensor %q: %w", s.spec.Name, err)
}

// every is how often the keenest listener wants a reading; 0: there is none. The
// caller holds mu.
func (s *sensor) every() time.Duration {
	var least time.Duration
	for _, t := range s.taps {
		if least == 0 || t.every < least {
			least = t.every
		}
	}
	return least
}

// tell gives a sample to all listeners. The caller holds mu.
func (s *sensor) tell(sample Sample) {
	for _, t := range s.taps {
		t.put(sample)
	}
}

func (t *tap) put(s Sample) {
	if s.Kind != Fault {
		t.seen = s.Reading.Time
	}
	t.waiting = put(t.waiting, s)
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// listen serves one call of Samples.
func (s *sensor) listen(ctx context.Context, closing <-chan struct{}, start func(func()) bool, every time.Duration, f func(Sample)) error {
	t := &tap{every: every, more: make(chan struct{}, 1)}
	if err := s.join(t, closing, start); err != nil {
		return err
	}
	defer s.leave(t)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-closing:
			return ErrClosed
		case <-t.more:
		}
		for ctx.Err() == nil {
			s.mu.Lock()
			if len(t.waiting) == 0 {
				s.mu.Unlock()
				break
			}
			sample := t.waiting[0]
			t.waiting = t.waiting[1:]
			s.mu.Unlock()
			f(sample)
		}
	}
}

// join adds a listener. It is due at once, and then at multiples of its every; where
// the sensor is in fault, it is told so.
func (s *sensor) join(t *tap, closing <-chan struct{}, start func(func()) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.due = time.Now()
	s.taps = append(s.taps, t)
	if s.health.failed > 0 {
		t.put(Sample{Kind: Fault, Err: s.lastErr, Since: s.health.since})
	}
	if !s.running {
		if !start(func() { s.sample(closing, start) }) {
			s.removeLocked(t)
			return ErrClosed
		}
		s.running = true
	}
	s.nudge()
	return nil
}

func (s *sensor) leave(t *tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(t)
	s.nudge()
}

func (s *sensor) removeLocked(t *tap) {
	for i, o := range s.taps {
		if o == t {
			s.taps = append(s.taps[:i:i], s.taps[i+1:]...)
			return
		}
	}
}

func (s *sensor) nudge() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// sample reads the sensor when its listeners want it, until there is none.
func (s *sensor) sample(closing <-chan struct{}, start func(func()) bool) {
	for {
		wake, ok := s.next()
		if !ok {
			return
		}
		t := time.NewTimer(time.Until(wake))
		select {
		case <-t.C:
			<-s.ask(start, s.early).done // what came of it is in s
			s.deliver(time.Now())
		case <-s.changed:
		case <-closing:
		}
		t.Stop()
		select {
		case <-closing:
			s.mu.Lock()
			s.running = false
			s.mu.Unlock()
			return
		default:
		}
	}
}

// next returns when the sensor is to be read next. ok is false when nobody
// listens any more: sample ends.
func (s *sensor) next() (wake time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.taps) == 0 {
		s.running = false
		return time.Time{}, false
	}
	wake = s.taps[0].due
	for _, t := range s.taps[1:] {
		if t.due.Before(wake) {
			wake = t.due
		}
	}
	return s.health.wake(wake), true
}

// deliver gives the last reading to all who are due. One that brought a
// recovery has been given with it.
func (s *sensor) deliver(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.taps {
		if t.due.After(now) {
			continue
		}
		t.due = tickAfter(s.epoch, now, t.every)
		if s.lastErr != nil || s.last.Time.Equal(t.seen) {
			continue
		}
		t.put(Sample{Kind: Read, Reading: s.last.clone()})
	}
}

func (s *sensor) info(i *Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.Time.IsZero() {
		i.Value, i.Time = s.typ.format(s.last.Values), s.last.Time
	}
	if s.health.failed > 0 {
		i.fault(s.lastErr)
	}
}

// clone is a reading that its receiver may keep and change.
func (r Reading) clone() Reading {
	r.Values = maps.Clone(r.Values)
	return r
}

// units for people.
var units = map[string]string{"C": "°C", "rH": "%rH"}

// format writes values for people, in the order of the type's quantities.
func (t SensorType) format(values map[Quantity]float64) string {
	parts := make([]string, 0, len(t.Quantities))
	for _, q := range t.Quantities {
		unit := q.Unit
		if u, ok := units[unit]; ok {
			unit = u
		}
		parts = append(parts, q.Name+" "+strconv.FormatFloat(values[q], 'g', 6, 64)+" "+unit)
	}
	return strings.Join(parts, ", ")
}
