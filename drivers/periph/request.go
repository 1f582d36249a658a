package periph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/warthog618/go-gpiocdev"
	"github.com/warthog618/go-gpiocdev/uapi"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/drivers"
)

// eventBuffer is how many edges the kernel keeps for us: as many as it allows
// (linux/gpio.h, GPIO_V2_LINES_MAX * 16). One more drops the oldest, which the
// sequence numbers show.
const eventBuffer = 1024

// eventSize is the size of a struct gpio_v2_line_event.
const eventSize = int(unsafe.Sizeof(uapi.LineEvent{}))

// request is a line that the kernel has given us.
type request struct{ file *os.File }

// ask is what a line is requested as.
type ask struct {
	name     string // of the device, for the kernel's list of consumers
	flags    uapi.LineFlagV2
	debounce time.Duration
	high     bool // of an output
}

// request asks the kernel for a line.
func (d *Driver) request(p place, w ask) (*request, error) {
	dev, err := os.OpenFile(d.path("dev", p.chip), os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault(fmt.Errorf("take line %s: %w", p.at, err))
	}
	defer func() { _ = dev.Close() }() // the request outlives it
	r := uapi.LineRequest{Lines: 1}
	r.Offsets[0] = uint32(p.offset)
	r.Config.Flags = w.flags
	copy(r.Consumer[:len(r.Consumer)-1], "edgefn "+w.name)
	if w.flags.IsOutput() {
		bits := uapi.NewLineBitmap(0)
		if w.high {
			bits = uapi.NewLineBitmap(1)
		}
		r.Config.AddAttribute(uapi.LineConfigAttribute{Attr: uapi.OutputValues(bits).Encode(), Mask: 1})
	}
	if w.flags.IsRisingEdge() || w.flags.IsFallingEdge() {
		r.EventBufferSize = d.buffer
	}
	if w.debounce > 0 {
		r.Config.AddAttribute(uapi.LineConfigAttribute{Attr: uapi.DebouncePeriod(w.debounce).Encode(), Mask: 1})
	}
	if err := control(dev, func(fd uintptr) error { return uapi.GetLine(fd, &r) }); err != nil {
		return nil, refusal(p, err)
	}
	if err := unix.SetNonblock(int(r.Fd), true); err != nil { // so that a read ends when the file is closed
		_ = unix.Close(int(r.Fd))
		return nil, fault(err)
	}
	return &request{os.NewFile(uintptr(r.Fd), p.at)}, nil
}

// refusal says why the kernel does not give a line.
func refusal(p place, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		by := "somebody who does not tell"
		if c, e := kernelChip(p.chip); e == nil && p.offset < len(c.lines) && c.lines[p.offset].consumer != "" {
			by = fmt.Sprintf("%q", c.lines[p.offset].consumer)
		}
		return fmt.Errorf("%w: line %s is used by %s", drivers.ErrBusy, p.at, by)
	case errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("%w: take line %s: %w: the kernel is older than 5.10", drivers.ErrFault, p.at, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: take line %s: %w: the chip may not be able to pull, or to do this direction", drivers.ErrFault, p.at, err)
	}
	return fault(fmt.Errorf("take line %s: %w", p.at, err))
}

// control runs f on a file's descriptor, and leaves the file non-blocking.
func control(f *os.File, do func(fd uintptr) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(fd) }); err != nil {
		return err
	}
	return inner
}

func (r *request) get() (high bool, err error) {
	v := uapi.LineValues{Mask: 1}
	err = control(r.file, func(fd uintptr) error { return uapi.GetLineValuesV2(fd, &v) })
	return v.Get(0) == 1, err
}

func (r *request) set(high bool) error {
	v := uapi.LineValues{Mask: 1}
	if high {
		v.Bits = 1
	}
	return control(r.file, func(fd uintptr) error { return uapi.SetLineValuesV2(fd, v) })
}

// edges reads edges until the request is closed, which is no error, or the
// line is gone.
func (r *request) edges(f func(drivers.RawEdge)) error {
	buf := make([]byte, 64*eventSize)
	for {
		n, err := r.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		wall, mono := time.Now(), monotonic()
		for b := buf[:n]; len(b) >= eventSize; b = b[eventSize:] {
			e := decode(b)
			e.Time = wallTime(wall, mono, e.Kernel)
			f(e)
		}
	}
}

// decode reads a struct gpio_v2_line_event (linux/gpio.h): time stamp, kind,
// offset, number among the request's lines, number on the line.
func decode(b []byte) drivers.RawEdge {
	o := binary.NativeEndian
	return drivers.RawEdge{
		Kernel: time.Duration(o.Uint64(b)),
		Rising: o.Uint32(b[8:]) == uint32(gpiocdev.LineEventRisingEdge),
		Seq:    o.Uint32(b[20:]),
	}
}

// oldest is how long an edge can have waited; what is older has another clock.
const oldest = time.Hour

// wallTime is when an edge happened by the wall clock, from the two clocks at
// one moment.
func wallTime(wall time.Time, mono, edge time.Duration) time.Time {
	age := mono - edge
	if age < 0 || age > oldest {
		age = 0
	}
	return wall.Add(-age)
}

// monotonic is the kernel's CLOCK_MONOTONIC, which its edges are stamped with.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
