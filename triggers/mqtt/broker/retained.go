package broker

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/edgefn/edgefn/functions"
)

// Overflow says what happens at a bound.
type Overflow string

// What happens at a bound.
const (
	// Refuse does not take the message: MQTT 5 senders are told (0x97, quota
	// exceeded); others, for whom the protocol has no word, get no
	// acknowledgement and are disconnected, so that they send it again.
	Refuse Overflow = "refuse"
	// DropOldest makes room by dropping what is there the longest.
	DropOldest Overflow = "oldest"
)

// retainedDelay is how long a retained message of QoS 0 may wait to be written.
// A value that changes each second is so written once in that time.
const retainedDelay = time.Minute

// maxUnwritten bounds, in bytes, what waits to be written.
const maxUnwritten = 1 << 20

// retained holds the retained messages, in memory and on disk. What an
// acknowledgement waits for is written at once. Other messages are written
// together after a while, each topic's newest only: a crash may bring back the
// one before.
type retained struct {
	st       *store
	maxCount int
	maxBytes int64
	full     Overflow

	mu        sync.Mutex
	byTopic   map[string]*list.Element
	byAge     list.List // of *message, the one that was set the longest ago first
	bytes     int64
	seq       uint64 // of the newest
	unwritten map[string]int64
	waiting   int64     // bytes of unwritten
	since     time.Time // when the first of them was set
}

// load reads the messages from disk.
func (r *retained) load(now instant) error {
	r.byTopic, r.unwritten = map[string]*list.Element{}, map[string]int64{}
	var all []*message
	err := r.st.each(bucketRetained, nil, func(_, value []byte) error {
		m, err := unmarshalMessage(value, now)
		if err != nil {
			return err
		}
		m.Retain = true
		all = append(all, m)
		return nil
	})
	slices.SortStableFunc(all, func(a, b *message) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, m := range all {
		if m.Seq <= r.seq { // an earlier version wrote none
			m.Seq = r.seq + 1
		}
		r.seq = m.Seq
		r.byTopic[m.Topic] = r.byAge.PushBack(m)
		r.bytes += m.size()
	}
	return err
}

// set replaces the message of a topic, or removes it when the payload is empty
// [MQTT-3.3.1-6]. w is told when that is on disk; nil: nobody waits. ok is false
// when there is no room. Then nothing has changed if somebody waits; else the
// topic has no message, for its old one is not the last that was sent.
func (r *retained) set(m *message, w *waiter) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.byTopic[m.Topic]
	if len(m.Payload) == 0 {
		switch {
		case old != nil:
			r.drop(old, w)
		case w != nil: // an earlier removal may still wait to be written
			r.written(m.Topic)
			r.st.remove(bucketRetained, part(m.Topic), w)
		}
		return true
	}
	if !r.makeRoom(m, old) {
		if old != nil && w == nil {
			r.drop(old, nil)
		}
		return false
	}
	r.seq++
	kept := *m
	kept.Seq = r.seq
	if old != nil {
		r.bytes -= old.Value.(*message).size()
		r.byAge.Remove(old)
	}
	r.byTopic[m.Topic] = r.byAge.PushBack(&kept)
	r.bytes += kept.size()
	if w == nil {
		r.later(m.Topic, kept.size())
		return true
	}
	r.written(m.Topic)
	r.st.put(bucketRetained, part(m.Topic), marshal(&kept), w)
	return true
}

// makeRoom sees to room for m in place of old, which may be nil. The caller
// holds mu.
func (r *retained) makeRoom(m *message, old *list.Element) bool {
	count, bytes := r.byAge.Len()+1, r.bytes+m.size()
	if old != nil {
		count, bytes = count-1, bytes-old.Value.(*message).size()
	}
	if m.size() > r.maxBytes || (r.full != DropOldest && (count > r.maxCount || bytes > r.maxBytes)) {
		return false
	}
	for e := r.byAge.Front(); e != nil && (count > r.maxCount || bytes > r.maxBytes); {
		oldest := e
		if e = e.Next(); oldest == old {
			continue
		}
		count, bytes = count-1, bytes-oldest.Value.(*message).size()
		r.drop(oldest, nil)
	}
	return true
}

// drop removes a message; mu is held.
func (r *retained) drop(e *list.Element, w *waiter) {
	m := r.byAge.Remove(e).(*message)
	delete(r.byTopic, m.Topic)
	r.bytes -= m.size()
	if w == nil {
		r.later(m.Topic, int64(len(m.Topic)))
		return
	}
	r.written(m.Topic)
	r.st.remove(bucketRetained, part(m.Topic), w)
}

// later has a topic written after a while; mu is held.
func (r *retained) later(topic string, size int64) {
	if len(r.unwritten) == 0 {
		r.since = time.Now()
	}
	r.waiting += size - r.unwritten[topic]
	r.unwritten[topic] = size
	if r.waiting > maxUnwritten {
		r.write()
	}
}

// written takes a topic out of those that wait; mu is held.
func (r *retained) written(topic string) {
	r.waiting -= r.unwritten[topic]
	delete(r.unwritten, topic)
}

// write writes what waits; mu is held.
func (r *retained) write() {
	for topic := range r.unwritten {
		if e := r.byTopic[topic]; e != nil {
			r.st.put(bucketRetained, part(topic), marshal(e.Value), nil)
		} else {
			r.st.remove(bucketRetained, part(topic), nil)
		}
	}
	clear(r.unwritten)
	r.waiting = 0
}

// flush writes what waits.
func (r *retained) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write()
}

// match returns the messages whose topics a filter matches.
func (r *retained) match(filter string, now instant) []*message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*message
	for e := r.byAge.Front(); e != nil; e = e.Next() {
		if m := e.Value.(*message); functions.TopicMatches(filter, m.Topic) && !m.expired(now) {
			out = append(out, m)
		}
	}
	return out
}

// newest returns the Seq of the message that was set last.
func (r *retained) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq
}

// between returns the first n messages that were set after one and not after
// another, in that order.
func (r *retained) between(after, upTo uint64, n int) []*message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*message
	for e := r.byAge.Front(); e != nil && len(out) < n; e = e.Next() {
		m := e.Value.(*message)
		if m.Seq > upTo {
			break
		}
		if m.Seq > after {
			out = append(out, m)
		}
	}
	return out
}

// sweep removes expired messages, and writes those that have waited.
func (r *retained) sweep(now instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := r.byAge.Front(); e != nil; {
		expired := e
		e = e.Next()
		if expired.Value.(*message).expired(now) {
			r.drop(expired, nil)
		}
	}
	if len(r.unwritten) > 0 && time.Since(r.since) >= retainedDelay {
		r.write()
	}
}

// size returns the bytes that the bound counts.
func (r *retained) size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

func (r *retained) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byAge.Len()
}
