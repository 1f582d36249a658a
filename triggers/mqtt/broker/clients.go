package broker

import (
	"maps"
	"slices"
	"time"
)

// ClientInfo is a client that is connected.
type ClientInfo struct {
	ID            string
	User          string // empty: anonymous
	Listener      string // address that it connected to
	Remote        string // its own address
	Version       string // of the protocol
	Since         time.Time
	Subscriptions int
	Queued        int // messages that wait for it
}

// Clients returns the connected clients whose ids come after after, in order
// of their ids, at most limit of them.
func (b *Broker) Clients(after string, limit int) []ClientInfo {
	b.mu.Lock()
	ids := slices.Sorted(maps.Keys(b.sessions))
	out := make([]ClientInfo, 0, min(limit, len(ids)))
	begin, found := slices.BinarySearch(ids, after)
	if found {
		begin++
	}
	for _, id := range ids[begin:] {
		if len(out) >= limit {
			break
		}
		if i, ok := b.sessions[id].info(); ok {
			out = append(out, i)
		}
	}
	b.mu.Unlock()
	return out
}

// info is what is told of a session's client; ok is false when none is
// connected.
func (s *session) info() (i ClientInfo, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn
	if c == nil {
		return i, false
	}
	i = ClientInfo{
		ID: s.id, User: c.who.User, Listener: c.from.ln.Addr().String(), Remote: c.nc.RemoteAddr().String(),
		Version: map[byte]string{mqtt31: "3.1", mqtt311: "3.1.1", mqtt5: "5"}[c.version], Since: c.since,
		Subscriptions: len(s.subs), Queued: s.items.Len(),
	}
	c.mu.Lock()
	i.Queued += len(c.queue0)
	c.mu.Unlock()
	return i, true
}
