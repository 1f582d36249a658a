package sandbox

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
)

// Whoever is connected to can ask whether it was a function, from the first
// byte to the last.
func TestConnectionsOfFunctionsAreKnown(t *testing.T) {
	var h Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := &forwarder{log: slog.New(slog.DiscardHandler), out: &h.outgoing}
	f.ctx, f.cancel = context.WithCancel(t.Context())
	function, in := net.Pipe()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		f.copy(in, l.Addr().String())
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := function.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	mapped := netip.AddrPortFrom(netip.AddrFrom16(from.Addr().As16()), from.Port()) // as a listener on :: sees it
	if !h.OfFunction(from) || !h.OfFunction(mapped) {
		t.Error("the connection is not known as a function's")
	}
	other, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if h.OfFunction(other.LocalAddr().(*net.TCPAddr).AddrPort()) {
		t.Error("another program's connection is taken for a function's")
	}
	f.cancel()
	<-copied
	if h.OfFunction(from) || len(h.outgoing.ends) != 0 {
		t.Error("a connection that ended is still known")
	}
}
