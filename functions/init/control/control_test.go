package control_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions/init/control"
)

// pair returns the two ends of a control connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var cs [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "control")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		cs[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return cs[0], cs[1]
}

func TestMessageWithFiles(t *testing.T) {
	x, y := pair(t)
	a, b := control.NewConn(x), control.NewConn(y)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send(control.Message{Kind: control.Start, Slot: 2, Seq: 7}, w); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	m, files, err := b.Recv()
	if err != nil || m.Kind != control.Start || m.Slot != 2 || m.Seq != 7 || len(files) != 1 {
		t.Fatalf("got %+v with %d files, %v", m, len(files), err)
	}
	if _, err := files[0].WriteString("x"); err != nil {
		t.Fatal(err)
	}
	control.CloseAll(files)
	if got, err := io.ReadAll(r); err != nil || string(got) != "x" {
		t.Errorf("through the file came %q, %v", got, err)
	}
}

func TestTheEndIsSeen(t *testing.T) {
	x, y := pair(t)
	_ = x.Close()
	if _, _, err := control.NewConn(y).Recv(); !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

func TestMalformedMessage(t *testing.T) {
	for _, text := range []string{"\xff", "no cbor", "\xa1\x64kind"} {
		x, y := pair(t)
		if _, err := x.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if m, _, err := control.NewConn(y).Recv(); err == nil {
			t.Errorf("%q was taken as %+v", text, m)
		}
	}
}
