package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/edgefn/edgefn/functions"
)

// subscription is one filter of one session, as it is kept on disk too.
type subscription struct {
	Filter         string `cbor:"1,keyasint"` // as the client wrote it, $share included
	QoS            byte   `cbor:"2,keyasint,omitempty"`
	NoLocal        bool   `cbor:"3,keyasint,omitempty"`
	AsPublished    bool   `cbor:"4,keyasint,omitempty"` // keep the retain flag [MQTT-3.3.1-13]
	RetainHandling byte   `cbor:"5,keyasint,omitempty"`
	ID             int    `cbor:"6,keyasint,omitempty"`
}

// splitShared takes "$share/GROUP/FILTER" apart; group is empty for an
// ordinary filter. [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func splitShared(filter string) (group, plain string, err error) {
	rest, shared := strings.CutPrefix(filter, "$share/")
	if !shared {
		if filter == "$share" {
			return "", "", errors.New("shared subscription has no group and no filter")
		}
		return "", filter, functions.CheckFilter(filter)
	}
	group, plain, ok := strings.Cut(rest, "/")
	if !ok || group == "" || strings.ContainsAny(group, "+#") {
		return "", "", fmt.Errorf("shared subscription %q: want $share/GROUP/FILTER", filter)
	}
	return group, plain, functions.CheckFilter(plain)
}

// match is one session that gets a message.
type match struct {
	s      *session
	qos    byte
	retain bool // pass the sender's retain flag on
	ids    []int
}

// level is one level of the tree of filters.
type level struct {
	children map[string]*level
	subs     map[*session]subscription
	groups   map[string]*group // shared subscriptions
}

// group is a shared subscription: each message goes to one member.
type group struct {
	members []*session
	subs    map[*session]subscription
	next    int
}

func (l *level) empty() bool { return len(l.children) == 0 && len(l.subs) == 0 && len(l.groups) == 0 }

// subscriptions is the tree of all sessions' filters.
type subscriptions struct {
	mu    sync.Mutex // not RW: choosing a group's member changes it
	root  level
	count int
	bytes int // of filters
}

// add sets a subscription of a session and reports whether its filter is new to it.
func (x *subscriptions) add(s *session, sub subscription) bool {
	name, plain, err := splitShared(sub.Filter)
	if err != nil {
		return false // the caller checked
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	l := &x.root
	for part := range strings.SplitSeq(plain, "/") {
		if l.children == nil {
			l.children = map[string]*level{}
		}
		next := l.children[part]
		if next == nil {
			next = &level{}
			l.children[part] = next
		}
		l = next
	}
	subs := &l.subs
	if name != "" {
		if l.groups == nil {
			l.groups = map[string]*group{}
		}
		g := l.groups[name]
		if g == nil {
			g = &group{}
			l.groups[name] = g
		}
		if !slices.Contains(g.members, s) {
			g.members = append(g.members, s)
		}
		subs = &g.subs
	}
	if *subs == nil {
		*subs = map[*session]subscription{}
	}
	_, had := (*subs)[s]
	(*subs)[s] = sub
	if !had {
		x.count++
		x.bytes += len(sub.Filter)
	}
	return !had
}

// remove takes a session's filter away and reports whether it had it.
func (x *subscriptions) remove(s *session, filter string) bool {
	name, plain, err := splitShared(filter)
	if err != nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	parts := strings.Split(plain, "/")
	path := []*level{&x.root}
	for _, part := range parts {
		l := path[len(path)-1].children[part]
		if l == nil {
			return false
		}
		path = append(path, l)
	}
	l := path[len(path)-1]
	if name == "" {
		if _, had := l.subs[s]; !had {
			return false
		}
		delete(l.subs, s)
	} else {
		g := l.groups[name]
		if g == nil || !slices.Contains(g.members, s) {
			return false
		}
		delete(g.subs, s)
		g.members = slices.DeleteFunc(g.members, func(m *session) bool { return m == s })
		if len(g.members) == 0 {
			delete(l.groups, name)
		}
	}
	x.count--
	x.bytes -= len(filter)
	for i := len(parts); i > 0 && path[i].empty(); i-- {
		delete(path[i-1].children, parts[i-1])
	}
	return true
}

func (x *subscriptions) len() int {
	n, _ := x.held()
	return n
}

// held returns how many filters there are, and their bytes.
func (x *subscriptions) held() (count, bytes int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.count, x.bytes
}

// match returns the sessions that get a message from origin with that topic,
// each once: with the highest QoS of its filters and the identifiers of all of
// them [MQTT-3.3.4-2] [MQTT-3.3.4-3].
func (x *subscriptions) match(topic, origin string) []match {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []match
	index := map[*session]int{}
	add := func(s *session, sub subscription) {
		if sub.NoLocal && s.id == origin {
			return // [MQTT-3.8.3-3]
		}
		i, had := index[s]
		if !had {
			i = len(out)
			index[s] = i
			out = append(out, match{s: s})
		}
		m := &out[i]
		m.qos = max(m.qos, sub.QoS)
		m.retain = m.retain || sub.AsPublished
		if sub.ID > 0 {
			m.ids = append(m.ids, sub.ID)
		}
	}
	collect := func(l *level) {
		for s, sub := range l.subs {
			add(s, sub)
		}
		for _, g := range l.groups {
			if s := g.pick(); s != nil {
				add(s, g.subs[s])
			}
		}
	}
	var walk func(l *level, rest string, more, first bool)
	walk = func(l *level, rest string, more, first bool) {
		wild := !first || !strings.HasPrefix(topic, "$") // [MQTT-4.7.2-1]
		if wild {
			if hash := l.children["#"]; hash != nil {
				collect(hash) // matches the parent level too [MQTT-4.7.1-2]
			}
		}
		if !more {
			collect(l)
			return
		}
		part, rest, more := strings.Cut(rest, "/")
		if next := l.children[part]; next != nil {
			walk(next, rest, more, false)
		}
		if plus := l.children["+"]; plus != nil && wild {
			walk(plus, rest, more, false)
		}
	}
	walk(&x.root, topic, true, true)
	return out
}

// pick chooses members in turn, and passes over those that are not connected
// while another one is.
func (g *group) pick() *session {
	n := len(g.members)
	if n == 0 {
		return nil
	}
	for i := range n {
		s := g.members[(g.next+i)%n]
		if s.online.Load() {
			g.next = (g.next + i + 1) % n
			return s
		}
	}
	s := g.members[g.next%n]
	g.next = (g.next + 1) % n
	return s
}
