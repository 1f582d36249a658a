// Package replay tells a retained message that is news from one that a function
// has had: a broker sends all retained messages again for each subscription that
// it is asked for, and they look alike.
//
// Topics remembers per topic a digest of the content that the function has had
// last. A retained message that is the same is no event; one that differs has
// changed in the meantime, and is. What was just published is always an event.
// Where the protocol tells that it was retained, or does not tell, its content is
// remembered, since a replay will bring it again. Over MQTT 3.1.1 it does not
// tell: there a retained message is an event once more after a message that was
// not retained on the same topic.
//
// What is remembered outlives a restart as pages of a few kB each (pages.go).
package replay

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
)

// Kind is what is known of whether a message is the retained one of its topic.
type Kind int

const (
	// Unknown is of a message that was just published, where the protocol does not
	// tell whether the broker retains it [MQTT-3.3.1-9].
	Unknown Kind = iota
	// Plain was just published, and is not retained.
	Plain
	// Retained was just published, and is retained from now on.
	Retained
	// Replayed was retained before, and is sent because of a subscription.
	Replayed
)

// Bounds for New.
const (
	MaxRetained = 10_000
	MaxOthers   = 2_000
)

// Topics is what is known of the topics of one broker. It has no lock and no clock.
type Topics struct {
	broker   string
	topics   map[Key]*topic
	retained bounded // those known to have a retained message
	others   bounded
	seq      uint64 // of the newest arrival

	tells   bool // the broker has told of a message that it is Retained
	pages   [pageCount]page
	about   page // whether tells is saved
	evicted uint64
}

// Key is a digest of a topic and its broker.
type Key uint64

// Digest is a digest of what a message says.
type Digest uint64

// DigestOf digests the content of a message.
func DigestOf(payload []byte) Digest {
	sum := sha256.Sum256(payload)
	return Digest(binary.BigEndian.Uint64(sum[:]))
}

// topic is what is known of a topic.
type topic struct {
	key      Key
	had      Digest // what the function has had last
	hasHad   bool
	hadAt    uint64   // the arrival that it is of; 0: of an earlier run
	retained bool     // known to have, or have had, a retained message
	newest   *Arrival // the newest message that is in work; nil: none
	place    *list.Element
}

// bounded is topics in the order of their last use, the newest in front.
type bounded struct {
	list.List
	max int
}

// Arrival is a message on its way to the function.
type Arrival struct {
	key      Key
	digest   Digest
	seq      uint64
	retained bool // it is the retained message of its topic
}

// New makes Topics of a broker. It remembers so many that are known to have a
// retained message, and so many of which that is not known; beyond that it forgets
// those that were used longest ago.
func New(broker string, maxRetained, maxOthers int) *Topics {
	return &Topics{
		broker: broker, topics: map[Key]*topic{},
		retained: bounded{max: maxRetained}, others: bounded{max: maxOthers},
	}
}

// Key is safe for concurrent use. It is not secret: whoever finds two topics with
// one key can spoil only what he may publish to himself.
func (t *Topics) Key(name string) Key {
	h := sha256.New()
	_, _ = h.Write([]byte(t.broker)) // a hash has no errors
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(name))
	return Key(binary.BigEndian.Uint64(h.Sum(nil)))
}

// Believe says what to believe of a message that the broker says to be of a kind:
// that one is Plain only if it has told of another that it is Retained. Some do not
// heed the wish to be told.
func (t *Topics) Believe(kind Kind) Kind {
	if kind == Retained && !t.tells {
		t.tells = true
		t.about.stale(true)
	}
	if kind == Plain && !t.tells {
		return Unknown
	}
	return kind
}

// Doubt takes note that the session was used over MQTT 3.1.1, which cannot tell:
// Mosquitto goes on like that over MQTT 5.
func (t *Topics) Doubt() {
	if t.tells {
		t.tells = false
		t.about.stale(true)
	}
}

// Had reports whether the function has had the content of a replay, as the last
// of its topic; or else it returns the message in work that has the same content,
// on whose outcome it depends.
func (t *Topics) Had(key Key, digest Digest) (had bool, working *Arrival) {
	p := t.topics[key]
	if p == nil {
		return false, nil
	}
	t.use(p, true)
	if p.newest != nil {
		if p.newest.digest == digest {
			p.newest.retained = true
			return false, p.newest
		}
		return false, nil
	}
	return p.hasHad && p.had == digest, nil
}

// Begin takes note of a message that becomes an event. The result goes to End; it
// is nil for a message that need not be remembered.
func (t *Topics) Begin(key Key, digest Digest, kind Kind) *Arrival {
	if kind == Plain {
		return nil
	}
	t.seq++
	a := &Arrival{key: key, digest: digest, seq: t.seq, retained: kind != Unknown}
	t.topic(key, a.retained).newest = a
	return a
}

// End takes note of what became of the event: settled or given back. a may be nil.
func (t *Topics) End(a *Arrival, settled bool) {
	if a == nil {
		return
	}
	p := t.topics[a.key]
	if p != nil && p.newest == a {
		p.newest = nil
	}
	if !settled {
		return
	}
	p = t.topic(a.key, a.retained) // it may have been forgotten meanwhile
	if p.hasHad && a.seq < p.hadAt {
		return // a newer one was settled before
	}
	p.hadAt = a.seq
	if p.hasHad && p.had == a.digest {
		return
	}
	p.had, p.hasHad = a.digest, true
	t.changed(p)
}

// Evicted is how many topics with a retained message were forgotten for want of
// room.
func (t *Topics) Evicted() uint64 { return t.evicted }

// topic returns what is known of a topic, with something known from now on.
func (t *Topics) topic(key Key, retained bool) *topic {
	p := t.topics[key]
	if p == nil {
		p = &topic{key: key}
		p.place = t.others.PushFront(p)
		t.topics[key] = p
	}
	t.use(p, retained)
	t.trim(&t.others)
	return p
}

// use takes note of the use of a topic.
func (t *Topics) use(p *topic, retained bool) {
	switch {
	case p.retained:
		t.retained.MoveToFront(p.place)
	case retained:
		t.others.Remove(p.place)
		p.retained = true
		p.place = t.retained.PushFront(p)
		if p.hasHad {
			t.changed(p)
		}
		t.trim(&t.retained)
	default:
		t.others.MoveToFront(p.place)
	}
}

// trim forgets the topics that were used longest ago.
func (t *Topics) trim(b *bounded) {
	for b.Len() > b.max {
		last := b.Back()
		p := last.Value.(*topic) // nothing else is in there
		b.Remove(last)
		delete(t.topics, p.key)
		if p.retained {
			t.evicted++
		}
		if p.hasHad {
			t.pages[p.key.page()].stale(false)
		}
	}
}
