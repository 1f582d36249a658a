package powercut

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sector is what a drive writes as a whole.
const sector = 512

// errNoPower is the answer to writes and flushes once the power is off. Nobody
// may take them for done.
var errNoPower = errors.New("the disk has no power")

// image is the content of the disk. It is safe for concurrent use.
type image struct {
	size  int64
	delay atomic.Int64 // nanoseconds that each write and flush takes longer
	lies  atomic.Bool  // a flush makes nothing durable

	mu       sync.Mutex
	file     *os.File
	volatile map[int64][sector]byte // sectors written since the last flush, as they were at it
	left     int                    // writes until the power goes; 0: it stays
	off      bool                   // no power: writes and flushes fail
	written  int64
	flushes  int64
}

func createImage(path string, size int64) (*image, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make a disk of %d bytes: %w", size, err)
	}
	return &image{size: size, file: f, volatile: map[int64][sector]byte{}}, nil
}

func (m *image) close() error { return m.file.Close() }

func (m *image) readAt(p []byte, off int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.file.ReadAt(p, off)
	return err
}

// writeAt writes, and keeps what it replaces until the next flush.
func (m *image) writeAt(p []byte, off int64) error {
	time.Sleep(time.Duration(m.delay.Load()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return errNoPower
	}
	if off < 0 || off+int64(len(p)) > m.size {
		return fmt.Errorf("write of %d bytes at %d is beyond the disk's end", len(p), off)
	}
	for at := off / sector * sector; at < off+int64(len(p)); at += sector {
		if _, ok := m.volatile[at]; ok {
			continue
		}
		var old [sector]byte
		if _, err := m.file.ReadAt(old[:], at); err != nil {
			return err
		}
		m.volatile[at] = old
	}
	m.written += int64(len(p))
	if m.left > 0 {
		m.left--
		m.off = m.left == 0 // this write is the last one
	}
	_, err := m.file.WriteAt(p, off)
	return err
}

// flush makes durable what was written.
func (m *image) flush() error {
	time.Sleep(time.Duration(m.delay.Load()))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return errNoPower
	}
	m.flushes++
	if !m.lies.Load() {
		clear(m.volatile)
	}
	return nil
}

// powerOff takes the power away after a number of writes, or at once.
func (m *image) powerOff(after int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.off = after, m.off || after == 0
}

func (m *image) isOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.off
}

// crash takes back volatile sectors, all but a part of about kept, and turns
// the power on. It returns how many there were and how many were taken back.
func (m *image) crash(rnd *rand.Rand, kept float64) (volatile, lost int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	volatile = len(m.volatile)
	sectors := make([]int64, 0, volatile)
	for at := range m.volatile {
		sectors = append(sectors, at)
	}
	slices.Sort(sectors) // the same seed takes the same ones back
	for _, at := range sectors {
		if rnd.Float64() < kept {
			continue
		}
		old := m.volatile[at]
		if _, err := m.file.WriteAt(old[:], at); err != nil {
			return volatile, lost, fmt.Errorf("take back a sector: %w", err)
		}
		lost++
	}
	clear(m.volatile)
	m.left, m.off = 0, false
	return volatile, lost, nil
}
