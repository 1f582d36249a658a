package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskRows measures what a stateful event costs the disk: bytes and flushes, by
// the kernel's count for a block device that holds the node's data folder and
// nothing else.
func diskRows() (rows []row, err error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end() // after its disk is gone
	d, err := newDisk(b.dir, 2<<30)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.detach()) }()
	defer b.stop()
	b.data = d.at + "/d"
	if err := b.start(); err != nil {
		return nil, err
	}
	if err := b.connect(); err != nil {
		return nil, err
	}
	if _, err := b.edgefn("deploy", "testbed/bench/testdata/gostate"); err != nil {
		return nil, err
	}
	bare, err := newBareFile(b.data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.Close()) }()
	var ids idSource
	event := func(topic string) func() error {
		return func() error {
			t := b.client.Publish("bench/state/in/"+topic, 1, false, ids.next())
			if !t.WaitTimeout(20 * time.Second) {
				return errors.New("an event is not acknowledged")
			}
			return t.Error()
		}
	}
	for range 200 { // until the log's files and the sandbox are as they stay
		if err := event("quiet")(); err != nil {
			return nil, err
		}
	}
	for _, pace := range []struct {
		name string
		n    int
		wait time.Duration
	}{
		{"one per 300 ms", 40, 300 * time.Millisecond},
		{"back to back", 500, 0},
	} {
		theirs, err := d.cost(pace.n, pace.wait, bare.append)
		if err != nil {
			return rows, err
		}
		for _, kind := range []struct{ topic, name string }{{"quiet", "state and id"}, {"1", "state, id and result"}} {
			ours, err := d.cost(pace.n, pace.wait, event(kind.topic))
			if err != nil {
				return rows, err
			}
			rows = append(rows,
				pair(fmt.Sprintf("bytes on the disk per event, %s, %s", kind.name, pace.name), "kB", "one 4 KiB append and fdatasync at the same pace", ours.kilobytes, theirs.kilobytes),
				pair(fmt.Sprintf("flushes of the disk per event, %s, %s", kind.name, pace.name), "", "one 4 KiB append and fdatasync at the same pace", ours.flushes, theirs.flushes))
		}
	}
	retained, err := retainedRow(b, d)
	return append(rows, retained), err
}

// retainedRow measures a retained message that changes each second, which nobody
// waits for, against one whose sender does.
func retainedRow(b *bench, d *disk) (row, error) {
	const n = 130 // more than two of the minutes after which it is written
	set := func(qos byte) func() error {
		i := 0
		return func() error {
			i++
			t := b.client.Publish("bench/retained", qos, true, strconv.Itoa(i))
			if !t.WaitTimeout(20 * time.Second) {
				return errors.New("a retained message is not acknowledged")
			}
			return t.Error()
		}
	}
	ours, err := d.cost(n, time.Second, set(0))
	if err != nil {
		return row{}, err
	}
	theirs, err := d.cost(n/4, time.Second, set(1))
	return pair("bytes on the disk per retained message, one per second, QoS 0", "kB", "the same with QoS 1", ours.kilobytes, theirs.kilobytes), err
}

// disk is a loop device with a file system of its own.
type disk struct{ device, at string }

// newDisk makes one in a file in dir and mounts it.
func newDisk(dir string, size int64) (*disk, error) {
	ctx := context.Background()
	img, d := filepath.Join(dir, "disk.img"), &disk{at: filepath.Join(dir, "disk")}
	f, err := os.Create(img)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.Mkdir(d.at, 0o755)); err != nil {
		return nil, err
	}
	// What is initialised late would be counted.
	if _, err := outputOf(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", img)); err != nil {
		return nil, err
	}
	out, err := outputOf(exec.CommandContext(ctx, "losetup", "--find", "--show", img))
	if err != nil {
		return nil, err
	}
	d.device = strings.TrimSpace(string(out))
	if err := unix.Mount(d.device, d.at, "ext4", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", d.device, err), d.free())
	}
	return d, nil
}

// detach unmounts the disk and frees its device. It waits a little for who still
// has a file open.
func (d *disk) detach() error {
	var err error
	for range 50 {
		if err = unix.Unmount(d.at, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", d.at, err)
	}
	return d.free()
}

func (d *disk) free() error {
	_, err := outputOf(exec.CommandContext(context.Background(), "losetup", "--detach", d.device))
	return err
}

// diskCost is what was written to a disk, for each of what caused it.
type diskCost struct{ kilobytes, flushes float64 }

// cost does something n times, each wait after the one before, and returns what
// one costs the disk, that included which the store and the file system write
// later.
func (d *disk) cost(n int, wait time.Duration, do func() error) (diskCost, error) {
	before, err := d.settled()
	if err != nil {
		return diskCost{}, err
	}
	next := time.Now()
	for range n {
		if err := do(); err != nil {
			return diskCost{}, err
		}
		next = next.Add(wait)
		time.Sleep(time.Until(next))
	}
	after, err := d.settled()
	return diskCost{
		kilobytes: (after.kilobytes - before.kilobytes) / float64(n),
		flushes:   (after.flushes - before.flushes) / float64(n),
	}, err
}

// settled returns the totals of the device once all that was written is on it:
// the store's database lags a second behind.
func (d *disk) settled() (diskCost, error) {
	time.Sleep(1500 * time.Millisecond)
	f, err := os.Open(d.at)
	if err != nil {
		return diskCost{}, err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return diskCost{}, fmt.Errorf("sync %s: %w", d.at, err)
	}
	return d.written()
}

// written reads the device's statistics: the kernel's
// Documentation/block/stat.rst.
func (d *disk) written() (diskCost, error) {
	const sectors, flushes = 6, 15 // written, of 512 bytes each; done
	text, err := os.ReadFile("/sys/block/" + filepath.Base(d.device) + "/stat")
	if err != nil {
		return diskCost{}, err
	}
	fields := strings.Fields(string(text))
	if len(fields) <= flushes {
		return diskCost{}, fmt.Errorf("the kernel does not count the flushes of %s: that takes Linux 5.5", d.device)
	}
	s, serr := strconv.ParseFloat(fields[sectors], 64)
	n, nerr := strconv.ParseFloat(fields[flushes], 64)
	return diskCost{kilobytes: s * 512 / 1000, flushes: n}, errors.Join(serr, nerr)
}
