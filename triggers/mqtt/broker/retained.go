package broker

import (
	"sync"

	"github.com/edgefn/edgefn/functions"
)

// retained holds the retained messages, in memory and on disk.
type retained struct {
	st *store

	mu      sync.Mutex
	byTopic map[string]*message
	bytes   int64
}

// load reads the messages from disk.
func (r *retained) load() error {
	r.byTopic = map[string]*message{}
	return r.st.each(bucketRetained, nil, func(_, value []byte) error {
		m, err := unmarshalMessage(value)
		if err != nil {
			return err
		}
		m.Retain = true
		r.byTopic[m.Topic] = m
		r.bytes += m.size()
		return nil
	})
}

// set replaces the message of a topic, or removes it when the payload is empty
// [MQTT-3.3.1-6]. w is told when that is on disk; it may be nil. ok is false
// when there is no room: the old message then stays.
func (r *retained) set(m *message, w *waiter) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.byTopic[m.Topic]
	if len(m.Payload) == 0 {
		if old != nil {
			r.drop(m.Topic, old, w)
		}
		return true
	}
	count, bytes := len(r.byTopic)+1, r.bytes+m.size()
	if old != nil {
		count, bytes = count-1, bytes-old.size()
	}
	if count > maxRetained || bytes > maxRetainedBytes {
		return false
	}
	r.byTopic[m.Topic], r.bytes = m, bytes
	r.st.put(bucketRetained, []byte(m.Topic), marshal(m), w)
	return true
}

func (r *retained) drop(topic string, m *message, w *waiter) {
	delete(r.byTopic, topic)
	r.bytes -= m.size()
	r.st.remove(bucketRetained, []byte(topic), w)
}

// match returns the messages whose topics a filter matches.
func (r *retained) match(filter string, now instant) []*message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*message
	for topic, m := range r.byTopic {
		if functions.TopicMatches(filter, topic) && !m.expired(now) {
			out = append(out, m)
		}
	}
	return out
}

// sweep removes expired messages.
func (r *retained) sweep(now instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic, m := range r.byTopic {
		if m.expired(now) {
			r.drop(topic, m, nil)
		}
	}
}

func (r *retained) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byTopic)
}
