package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// storedRows measures events that write a key of state and have an id of their
// own, so that each is a transaction of the store, against bare writes to the
// same disk, in turns.
func storedRows(rounds int) (rows []row, err error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end()
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
	latency, err := b.pairs("stateful event with an id: MQTT publish to result, p50", "one 4 KiB append and fdatasync", rounds,
		func(int) error { b.client.Publish("bench/state/in/1", 1, false, ids.next()); return nil }, bare.append)
	if err != nil {
		return nil, err
	}
	rate, err := b.storedRate(&ids, bare)
	if err != nil {
		return []row{latency}, err
	}
	return []row{latency, rate}, nil
}

// storedRate measures events of many topics at once against bare writes one
// after the other, in turns of some seconds at most.
func (b *bench) storedRate(ids *idSource, bare *bareFile) (row, error) {
	const (
		turns  = 4
		each   = 500
		topics = 32 // twice what the function runs and commits at a time
	)
	var ours, theirs time.Duration
	for range turns {
		begin := time.Now()
		go func() {
			for i := range each {
				b.client.Publish("bench/state/in/"+strconv.Itoa(i%topics), 1, false, ids.next())
			}
		}()
		for range each {
			select {
			case <-b.results:
			case <-time.After(30 * time.Second):
				return row{}, errors.New("sustained stateful events: a result is missing")
			}
		}
		ours += time.Since(begin)
		begin = time.Now()
		for range each {
			if err := bare.append(); err != nil {
				return row{}, err
			}
		}
		theirs += time.Since(begin)
	}
	const n = turns * each
	return pair("sustained stateful events with an id, 32 topics", "1/s", "a loop of 4 KiB appends and fdatasyncs", n/ours.Seconds(), n/theirs.Seconds()), nil
}

// idSource makes events' data with an id that no other event has.
type idSource struct{ last int }

func (s *idSource) next() string {
	s.last++
	return fmt.Sprintf(`{"id": "event-%08d", "celsius": 21.5}`, s.last)
}

// bareFile is what the store's log is held against: a file that grows by 4 KiB
// at a time, each on the disk before the next.
type bareFile struct {
	*os.File
	block [4096]byte
}

// newBareFile makes one beside a node's data folder, on its file system.
func newBareFile(data string) (*bareFile, error) {
	f, err := os.Create(filepath.Join(filepath.Dir(data), "bare"))
	if err != nil {
		return nil, err
	}
	return &bareFile{File: f}, nil
}

func (f *bareFile) append() error {
	if _, err := f.Write(f.block[:]); err != nil {
		return err
	}
	return unix.Fdatasync(int(f.Fd()))
}
