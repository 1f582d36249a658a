package broker_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// A full disk: what cannot be stored is not acknowledged, everything else goes
// on, and with room again the sender's repeats are taken.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := start(t, broker.Config{Dir: dir})
	t.Cleanup(s.stop)
	sub := dial(t, s.Addr(), options{id: "offline", keep: true})
	sub.subscribe("x", 1)
	sub.goodbye()
	pub := dial(t, s.Addr(), options{id: "pub", keep: true})
	payload := func(i int) string { return numbered(i) + strings.Repeat("x", 4000) }
	acked := 0
	for ; acked < 1000; acked++ {
		pub.publish(publish{topic: "x", payload: payload(acked), qos: 1, pid: uint16(acked + 1)})
		p, ok := pub.next()
		if !ok {
			break // disconnected with no acknowledgement
		}
		if got := binary.BigEndian.Uint16(p.body); p.kind() != pPuback || got != uint16(acked+1) {
			t.Fatalf("packet of type %d for id %d", p.kind(), got)
		}
	}
	if acked < 10 || acked == 1000 {
		t.Fatalf("%d messages of 4 kB were acknowledged on 512 kB", acked)
	}
	// Nothing needs the disk here.
	live := dial(t, s.Addr(), options{id: "live"})
	live.subscribe("y", 1)
	live.publish(publish{topic: "y", payload: "1", qos: 1, pid: 1})
	seen := map[byte]bool{}
	for range 2 {
		p, ok := live.next()
		if !ok {
			t.Fatal("connection ended")
		}
		seen[p.kind()] = true
	}
	if !seen[pPuback] || !seen[pPublish] {
		t.Errorf("packets %v came", seen)
	}

	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	pub = dial(t, s.Addr(), options{id: "pub", keep: true})
	pub.publish(publish{topic: "x", payload: payload(acked), qos: 1, pid: uint16(acked + 1), dup: true})
	pub.wantAck(pPuback, uint16(acked+1))
	s = s.again(t)
	sub = dial(t, s.Addr(), options{id: "offline", keep: true})
	next := 0
	for next <= acked {
		m := sub.wantPublish()
		if m.payload == payload(next) {
			next++
		} else if next == 0 || m.payload != payload(next-1) { // twice is allowed, missing is not
			t.Fatalf("message %.5s came, want %s", m.payload, numbered(next))
		}
		sub.ack(pPuback, m.pid)
	}
}
