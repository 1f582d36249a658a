package broker_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

var (
	sequencesFor  = flag.Duration("sequences", time.Minute, "for how long TestSequences runs")
	sequencesSeed = flag.Uint64("sequences-seed", 0, "of the first sequence; 0: any")
)

// TestSequences has two clients send packets at random, right ones and wrong
// ones, and holds what comes back against a model of a broker.
func TestSequences(t *testing.T) {
	seed := *sequencesSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Parallel()
	s := start(t, broker.Config{})
	if testing.Short() {
		*sequencesFor = min(*sequencesFor, 5*time.Second)
	}
	end := time.Now().Add(*sequencesFor)
	var heap uint64
	n := 0
	for time.Now().Before(end) && !t.Failed() {
		// A test of its own lets go of its connections when it ends.
		t.Run(fmt.Sprintf("from %d", n), func(t *testing.T) {
			for last := n + 200; n < last && time.Now().Before(end) && !t.Failed(); n++ {
				m := &model{t: t, s: s, rnd: rand.New(rand.NewPCG(seed, uint64(n))), prefix: fmt.Sprintf("s%d/", n)}
				m.log = []string{fmt.Sprintf("seed %d, sequence %d", seed, n)}
				m.run(60)
			}
		})
		if heap == 0 {
			heap = heapInUse()
		}
	}
	now := heapInUse()
	t.Logf("%d sequences, heap %d KiB after the first and %d KiB after all", n, heap>>10, now>>10)
	if now > heap+8<<20 {
		t.Error("the broker keeps what it should not")
	}
	if st := s.Stats(); st.Retained != 0 || st.Subscriptions != 0 || st.Sessions != 0 {
		t.Errorf("left behind: %+v", st)
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// model is what a broker is to do.
type model struct {
	t        *testing.T
	s        *server
	rnd      *rand.Rand
	prefix   string // of every topic and client id
	peers    []*peer
	retained map[string]sent
	sent     int
	log      []string
}

// sent is a message.
type sent struct {
	topic, payload string
	qos            byte
	retain         bool
}

// peer is a client and what the broker keeps of it.
type peer struct {
	m       *model
	id      string
	version byte
	keep    bool
	c       *client // nil: not connected
	subs    map[string]byte
	queue   []entry // of QoS 1 and 2, not acknowledged
	pid     uint16
	inbox   []publish // came and was not expected yet
}

// entry is a message with the packet id that it came with; 0: it did not come yet.
type entry struct {
	sent
	pid uint16
}

var (
	someTopics  = []string{"a", "b", "a/b", "a/a", "b/a/b", "a//b"}
	someFilters = []string{"a", "b", "a/b", "+", "#", "a/#", "a/+", "+/b", "+/+/b", "b/+/b"}
	// wrongPackets end the connection, whatever the version.
	wrongPackets = map[string][]byte{
		"reserved type 0":        {0x00, 0x00},
		"second CONNECT":         frame(0x10, append(append(str("MQTT"), 4, 2, 0, 0), str("x")...)),
		"CONNACK":                {0x20, 0x02, 0x00, 0x00},
		"QoS 3":                  frame(0x36, append(str("a"), 0, 1, 'x')),
		"packet id 0":            frame(0x32, append(str("a"), 0, 0, 'x')),
		"wildcard in topic":      frame(0x30, append(str("a/#"), 'x')),
		"ill-formed UTF-8":       frame(0x30, append(str("a\xff"), 'x')),
		"NUL in topic":           frame(0x30, append(str("a\x00"), 'x')),
		"SUBSCRIBE flags":        frame(0x80, append([]byte{0, 1}, append(str("a"), 0)...)),
		"SUBSCRIBE of nothing":   frame(0x82, []byte{0, 1}),
		"UNSUBSCRIBE of nothing": frame(0xa2, []byte{0, 1}),
		"PUBREL flags":           frame(0x60, []byte{0, 1}),
		"endless length":         {0x30, 0xff, 0xff, 0xff, 0xff, 0x01},
		"PINGREQ flags":          {0xc1, 0x00},
	}
)

// run does n actions and then cleans up.
func (m *model) run(n int) {
	m.retained = map[string]sent{}
	for i := range 2 {
		m.peers = append(m.peers, &peer{
			m: m, id: m.prefix + string(rune('A'+i)), version: []byte{4, 5}[m.rnd.IntN(2)],
			subs: map[string]byte{},
		})
	}
	for range n {
		if m.t.Failed() {
			return
		}
		p := m.peers[m.rnd.IntN(2)]
		if p.c == nil {
			p.connect(m.rnd.IntN(3) > 0)
			continue
		}
		switch m.rnd.IntN(12) {
		case 0, 1:
			p.subscribe(m.pick(someFilters), byte(m.rnd.IntN(3)))
		case 2:
			p.unsubscribe(m.pick(someFilters))
		case 3:
			p.leave(m.rnd.IntN(2) == 0)
		case 4:
			p.wrong()
		case 5:
			p.acknowledge()
		default:
			p.publish(m.pick(someTopics), byte(m.rnd.IntN(3)), m.rnd.IntN(4) == 0, m.rnd.IntN(6) == 0)
		}
	}
	for _, p := range m.peers {
		if p.c != nil {
			p.nothingElse()
			p.leave(true)
		}
	}
	last := &peer{m: m, id: m.prefix + "last", version: 4}
	last.connect(false)
	for topic := range m.retained {
		last.send(sent{topic: topic, qos: 1, retain: true})
	}
	last.leave(true)
	for _, p := range m.peers {
		dial(m.t, m.s.Addr(), options{id: p.id}).goodbye() // its session ends
	}
	eventually(m.t, "all are gone", func() bool { return m.s.Stats().Sessions == 0 })
}

func (m *model) pick(from []string) string { return m.prefix + from[m.rnd.IntN(len(from))] }

func (m *model) fail(format string, args ...any) {
	m.t.Errorf(format, args...)
	m.t.Logf("what was done:\n%s", strings.Join(m.log, "\n"))
}

func (m *model) note(p *peer, format string, args ...any) {
	m.log = append(m.log, p.id+": "+fmt.Sprintf(format, args...))
}

func (p *peer) connect(keep bool) {
	p.m.note(p, "connect, version %d, keep %v", p.version, keep)
	o := options{id: p.id, version: p.version, keep: keep}
	if p.version == 5 && keep {
		o.props = []byte{17, 0, 0, 1, 0} // session expiry
	}
	c, present, code := connect(p.m.t, p.m.s.Addr(), o)
	if code != 0 || present != (keep && p.keep) {
		p.m.fail("%s: CONNACK code %#x, session present %v", p.id, code, present)
	}
	if !present {
		p.subs, p.queue = map[string]byte{}, nil
	}
	p.c, p.keep, p.inbox = c, keep, nil
	// What was not acknowledged comes again, in order and with its packet id.
	for i := range p.queue {
		e := &p.queue[i]
		x := p.receive()
		if messageOf(x) != e.sent || (e.pid != 0 && x.pid != e.pid) || x.dup != (e.pid != 0) {
			p.m.fail("%s: got %+v after it connected, want %+v", p.id, x, *e)
		}
		e.pid = x.pid
	}
}

func messageOf(x publish) sent { return sent{x.topic, x.payload, x.qos, x.retain} }

func (p *peer) leave(goodbye bool) {
	p.m.note(p, "leave, goodbye %v", goodbye)
	if goodbye {
		p.c.goodbye()
	} else {
		p.c.close()
	}
	p.gone()
}

// gone is a connection that is over, at the broker too.
func (p *peer) gone() {
	p.c = nil
	up := 0
	for _, o := range p.m.peers {
		if o.c != nil {
			up++
		}
	}
	eventually(p.m.t, "the broker has noticed", func() bool { return p.m.s.Stats().Clients == up })
	if !p.keep {
		p.subs, p.queue = map[string]byte{}, nil
	}
}

func (p *peer) wrong() {
	name := slices.Sorted(maps.Keys(wrongPackets))[p.m.rnd.IntN(len(wrongPackets))]
	p.m.note(p, "wrong packet: %s", name)
	p.c.write(wrongPackets[name])
	for ok := true; ok; {
		_, ok = p.c.next()
	}
	p.gone()
}

// read takes a packet; a message goes to the inbox.
func (p *peer) read() (k packet, message bool) {
	k, ok := p.c.next()
	if !ok {
		p.m.fail("%s: the connection ended", p.id)
		p.m.t.FailNow()
	}
	if message = k.kind() == pPublish; message {
		p.inbox = append(p.inbox, p.c.parse(k))
	}
	return k, message
}

// ack waits for an acknowledgement.
func (p *peer) ack(kind byte, pid uint16) (code byte) {
	for {
		k, message := p.read()
		switch {
		case message:
		case k.kind() != kind || (len(k.body) >= 2 && binary.BigEndian.Uint16(k.body) != pid):
			p.m.fail("%s: packet of type %d came (% x), want type %d for %d", p.id, k.kind(), k.body, kind, pid)
			p.m.t.FailNow()
		case len(k.body) > 2:
			return k.body[len(k.body)-1]
		default:
			return 0
		}
	}
}

// ping has the broker read all that was sent.
func (p *peer) ping() {
	p.c.write([]byte{0xc0, 0})
	p.ack(pPingresp, 0)
}

// receive returns the next message.
func (p *peer) receive() publish {
	for len(p.inbox) == 0 {
		if k, message := p.read(); !message {
			p.m.fail("%s: packet of type %d came (% x), want a message", p.id, k.kind(), k.body)
			p.m.t.FailNow()
		}
	}
	x := p.inbox[0]
	p.inbox = p.inbox[1:]
	return x
}

// want receives messages in any order.
func (p *peer) want(messages []sent) {
	for left := slices.Clone(messages); len(left) > 0; {
		x := p.receive()
		i := slices.Index(left, messageOf(x))
		if i < 0 || x.dup {
			p.m.fail("%s: got %+v, want one of %+v", p.id, x, left)
			p.m.t.FailNow()
		}
		left = slices.Delete(left, i, i+1)
		if x.qos > 0 {
			p.queue = append(p.queue, entry{messageOf(x), x.pid})
		}
	}
}

func (p *peer) subscribe(filter string, qos byte) {
	p.m.note(p, "subscribe %s, QoS %d", filter, qos)
	p.pid++
	body := binary.BigEndian.AppendUint16(nil, p.pid)
	if p.version == 5 {
		body = append(body, 0)
	}
	p.c.write(frame(0x82, append(append(body, str(filter)...), qos)))
	if code := p.ack(pSuback, p.pid); code != qos {
		p.m.fail("%s: SUBACK code %#x", p.id, code)
	}
	p.subs[filter] = qos
	var kept []sent
	for topic, x := range p.m.retained {
		if functions.TopicMatches(filter, topic) {
			x.qos = min(x.qos, qos)
			kept = append(kept, x)
		}
	}
	p.want(kept)
}

func (p *peer) unsubscribe(filter string) {
	p.m.note(p, "unsubscribe %s", filter)
	p.pid++
	body := binary.BigEndian.AppendUint16(nil, p.pid)
	if p.version == 5 {
		body = append(body, 0)
	}
	p.c.write(frame(0xa2, append(body, str(filter)...)))
	p.ack(pUnsuback, p.pid)
	delete(p.subs, filter)
}

func (p *peer) publish(topic string, qos byte, retain, empty bool) {
	p.m.sent++
	x := sent{topic: topic, payload: fmt.Sprint(p.m.sent), qos: qos, retain: retain}
	if empty {
		x.payload = ""
	}
	p.m.note(p, "publish %+v", x)
	p.send(x)
	if retain && empty {
		delete(p.m.retained, topic)
	} else if retain {
		p.m.retained[topic] = x
	}
	for _, o := range p.m.peers {
		best := -1
		for filter, q := range o.subs {
			if functions.TopicMatches(filter, topic) {
				best = max(best, int(q))
			}
		}
		live := sent{topic: topic, payload: x.payload, qos: min(qos, byte(max(best, 0)))}
		switch {
		case best < 0:
		case o.c != nil:
			o.want([]sent{live})
		case live.qos > 0: // it has a session, or it had no subscription
			o.queue = append(o.queue, entry{sent: live})
		}
	}
}

// send publishes a message to the last acknowledgement.
func (p *peer) send(x sent) {
	p.pid++
	p.c.publish(publish{topic: x.topic, payload: x.payload, qos: x.qos, retain: x.retain, pid: p.pid})
	switch x.qos {
	case 0:
		p.ping()
	case 1:
		p.ack(pPuback, p.pid)
	case 2:
		p.ack(pPubrec, p.pid)
		p.c.ack(pPubrel, p.pid)
		p.ack(pPubcomp, p.pid)
	}
}

// acknowledge ends the delivery of some messages.
func (p *peer) acknowledge() {
	n := p.m.rnd.IntN(len(p.queue) + 1)
	p.m.note(p, "acknowledge %d of %d", n, len(p.queue))
	for _, e := range p.queue[:n] {
		if e.qos == 1 {
			p.c.ack(pPuback, e.pid)
			continue
		}
		p.c.ack(pPubrec, e.pid)
		p.ack(pPubrel, e.pid)
		p.c.ack(pPubcomp, e.pid)
	}
	p.queue = slices.Clone(p.queue[n:])
	p.ping()
}

// nothingElse fails the test when more has come.
func (p *peer) nothingElse() {
	p.ping()
	time.Sleep(time.Millisecond)
	p.ping()
	if len(p.inbox) > 0 {
		p.m.fail("%s: %+v came, which nobody expects", p.id, p.inbox)
	}
}
