package mqtt

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
)

// retention is what is known of whether a message is the retained one of its
// topic.
type retention int

const (
	// retentionUnknown: the message was just published; the protocol does not
	// tell whether the broker retains it [MQTT-3.3.1-9].
	retentionUnknown retention = iota
	// retentionPlain: just published, and not retained, if the broker heeds the
	// wish to be told.
	retentionPlain
	// retentionLive: just published, and retained from now on.
	retentionLive
	// retentionReplay: retained before, and sent because of a subscription.
	retentionReplay
)

// Bounds of what a Source remembers of topics.
const (
	maxRetainedTopics = 10_000 // known to have a retained message
	maxOtherTopics    = 2_000  // of which that is not known
)

// replays tells a retained message that is news from one that the function has
// had: a broker sends all of them again for each subscription that it is asked
// for, and they look alike. It remembers per topic a digest of the content that
// the function has had last. A retained message that is the same is no event; one
// that differs has changed in the meantime, and is.
//
// What was just published is always an event. Where the protocol tells that it
// was retained, or does not tell, its content is remembered, since a replay will
// bring it again. Over MQTT 3.1.1 it does not tell: there a retained message is
// an event once more after a message that was not retained on the same topic.
//
// It has no lock and no clock.
type replays struct {
	broker   string // whose topics these are
	topics   map[topicKey]*topic
	retained bounded // those known to have a retained message
	others   bounded
	seq      uint64 // of the newest arrival

	pages   [pageCount]page
	evicted uint64 // topics with a retained message that were forgotten for want of room
}

// topicKey is a digest of a topic and its broker.
type topicKey uint64

// content is a digest of what a message says.
type content uint64

// topic is what is known of a topic.
type topic struct {
	key      topicKey
	had      content // what the function has had last
	hasHad   bool
	hadAt    uint64   // the arrival that it is of; 0: of an earlier run
	retained bool     // known to have, or have had, a retained message
	newest   *arrival // the newest message that is in work; nil: none
	place    *list.Element
}

// bounded is topics in the order of their last use, the newest in front.
type bounded struct {
	list.List
	max int
}

// arrival is a message on its way to the function.
type arrival struct {
	key       topicKey
	digest    content
	seq       uint64
	retained  bool // it is the retained message of its topic
	followers []*held
}

func newReplays(broker string, maxRetained, maxOthers int) *replays {
	return &replays{
		broker: broker, topics: map[topicKey]*topic{},
		retained: bounded{max: maxRetained}, others: bounded{max: maxOthers},
	}
}

// keyOf is not secret: whoever finds two topics with one key can spoil only what
// he may publish to himself.
func (r *replays) keyOf(name string) topicKey {
	h := sha256.New()
	_, _ = h.Write([]byte(r.broker)) // a hash has no errors
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(name))
	return topicKey(binary.BigEndian.Uint64(h.Sum(nil)))
}

// digestOf digests what makes one message differ from another for a function.
func digestOf(m Message) content {
	sum := sha256.Sum256(m.Payload)
	return content(binary.BigEndian.Uint64(sum[:]))
}

// had reports whether the function has had the content of a replay, as the last
// of its topic; or else it returns the message in work that has the same content,
// on whose outcome it depends.
func (r *replays) had(key topicKey, digest content) (had bool, working *arrival) {
	t := r.topics[key]
	if t == nil {
		return false, nil
	}
	r.see(t, true)
	if t.newest != nil {
		if t.newest.digest == digest {
			t.newest.retained = true
			return false, t.newest
		}
		return false, nil
	}
	return t.hasHad && t.had == digest, nil
}

// begin takes note of a message that becomes an event. The result goes to end;
// it is nil for a message that need not be remembered.
func (r *replays) begin(key topicKey, digest content, how retention) *arrival {
	if how == retentionPlain {
		return nil
	}
	r.seq++
	a := &arrival{key: key, digest: digest, seq: r.seq, retained: how != retentionUnknown}
	t := r.topic(key, a.retained)
	t.newest = a
	return a
}

// end takes note of what became of the event: settled or given back.
func (r *replays) end(a *arrival, settled bool) {
	if a == nil {
		return
	}
	t := r.topics[a.key]
	if t != nil && t.newest == a {
		t.newest = nil
	}
	if !settled {
		return
	}
	if t == nil { // forgotten meanwhile
		t = r.topic(a.key, a.retained)
	}
	r.see(t, a.retained)
	if t.hasHad && a.seq < t.hadAt {
		return // a newer one was settled before
	}
	t.hadAt = a.seq
	if t.hasHad && t.had == a.digest {
		return
	}
	t.had, t.hasHad = a.digest, true
	r.changed(t)
}

// topic returns what is known of a topic, with something known from now on.
func (r *replays) topic(key topicKey, retained bool) *topic {
	t := r.topics[key]
	if t == nil {
		t = &topic{key: key}
		t.place = r.others.PushFront(t)
		r.topics[key] = t
		r.trim(&r.others)
	}
	r.see(t, retained)
	return t
}

// see takes note of the use of a topic.
func (r *replays) see(t *topic, retained bool) {
	switch {
	case t.retained:
		r.retained.MoveToFront(t.place)
	case retained:
		r.others.Remove(t.place)
		t.retained = true
		t.place = r.retained.PushFront(t)
		if t.hasHad {
			r.changed(t)
		}
		r.trim(&r.retained)
	default:
		r.others.MoveToFront(t.place)
	}
}

// trim forgets the topics that were used longest ago.
func (r *replays) trim(b *bounded) {
	for b.Len() > b.max {
		last := b.Back()
		t := last.Value.(*topic) // nothing else is in there
		b.Remove(last)
		delete(r.topics, t.key)
		if t.retained {
			r.evicted++
		}
		if t.hasHad {
			r.pages[t.key.page()].stale(false)
		}
	}
}
