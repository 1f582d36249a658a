package sandbox

import (
	"net"
	"net/netip"
	"sync"
)

// outgoing are the node's ends of the connections that functions have made
// through their grants. An end is in it before the first byte goes out.
type outgoing struct {
	mu   sync.Mutex
	ends map[netip.AddrPort]struct{} // bounded by maxConnections of each sandbox
}

// add puts the address of an end in and returns what takes it out again.
func (o *outgoing) add(a net.Addr) (remove func()) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return func() {}
	}
	end := unmapped(t.AddrPort())
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ends == nil {
		o.ends = map[netip.AddrPort]struct{}{}
	}
	o.ends[end] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.ends, end)
	}
}

func (o *outgoing) has(a netip.AddrPort) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.ends[unmapped(a)]
	return ok
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// OfFunction reports whether a connection from that address is one that a
// function of this node has made through a grant: it comes from the node, and
// is yet no program's of this machine.
func (h *Host) OfFunction(from netip.AddrPort) bool { return h.outgoing.has(from) }
