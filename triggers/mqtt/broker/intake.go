package broker

import "sync"

// intake bounds the messages of clients that are not finished. It never waits:
// a connection's reader goes on whatever is full.
type intake struct {
	limit int64 // bytes of all of them

	mu        sync.Mutex
	held      int64
	clients   map[string]share // by client id
	functions map[string]int64 // bytes that were handed to a trigger and that it has not settled, by target.key
}

// share is what one client has in work.
type share struct {
	n     int
	bytes int64
}

func newIntake(limit int64) *intake {
	return &intake{limit: limit, clients: map[string]share{}, functions: map[string]int64{}}
}

// demand is a message that asks for room, and what decides on it.
type demand struct {
	size     int64
	qos      byte
	client   share // what its sender has in work
	function int64 // what the fullest of the triggers that it matches holds
	free     int64 // of the room of all
}

// fits decides. A trigger may hold as much as is left for all others: so one
// whose function is slow takes half of the room, two take a third each, and
// there is always some for another. QoS 0, whose sender cannot be held back,
// leaves half of that to those whose senders wait. A client with nothing in
// work always has room for a small message.
func (d demand) fits() bool {
	switch {
	case d.client.n == 0 && d.size <= clientLeast && d.free > -totalBytes:
		return true
	case d.client.bytes+d.size > clientBytes || d.size > d.free:
		return false
	case d.qos == 0:
		return d.function+d.size <= d.free/2
	default:
		return d.function+d.size <= d.free
	}
}

// cost is what a message counts for while it is in work.
func (m *message) cost() int64 { return m.size() + workBytes }

// take takes room for a message of a client if it fits.
func (in *intake) take(client string, targets []target, size int64, qos byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.demand(client, targets, size, qos).fits() {
		return false
	}
	in.add(client, size)
	return true
}

// fits reports whether take would succeed.
func (in *intake) fits(client string, targets []target, size int64, qos byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.demand(client, targets, size, qos).fits()
}

// demand is called with mu held.
func (in *intake) demand(client string, targets []target, size int64, qos byte) demand {
	d := demand{size: size, qos: qos, client: in.clients[client], free: in.limit - in.held}
	for _, t := range targets {
		d.function = max(d.function, in.functions[t.key()])
	}
	return d
}

func (in *intake) add(client string, size int64) {
	sh := in.clients[client]
	sh.n, sh.bytes = sh.n+1, sh.bytes+size
	in.clients[client] = sh
	in.held += size
}

// give gives a message's room back.
func (in *intake) give(client string, size int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held -= size
	sh := in.clients[client]
	if sh.n, sh.bytes = sh.n-1, sh.bytes-size; sh.n == 0 {
		delete(in.clients, client)
		return
	}
	in.clients[client] = sh
}

// handed counts a message that a trigger has now.
func (in *intake) handed(t target, size int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.functions[t.key()] += size
}

// settled counts it no more.
func (in *intake) settled(t target, size int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	key := t.key()
	if in.functions[key] -= size; in.functions[key] == 0 {
		delete(in.functions, key)
	}
}
