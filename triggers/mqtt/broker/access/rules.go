package access

import (
	"errors"
	"fmt"
	"strings"

	"github.com/edgefn/edgefn/functions"
)

// Users of a rule that are no names of users.
const (
	Everyone  = "*"         // all who have a user name
	Anonymous = "anonymous" // those who have none
)

// Bounds on rules.
const (
	maxRules   = 1000
	maxFilters = 10_000 // of all rules together
)

// Rule says what a user may publish to and subscribe to. In a filter %u is the
// client's user name and %c its client id. A client whose name or id could
// widen the filter, because it has a wildcard, a slash or a $ at its beginning,
// or is empty, gets nothing from it.
type Rule struct {
	User      string   `yaml:"user"`      // a name, Everyone or Anonymous
	Publish   []string `yaml:"publish"`   // topic filters
	Subscribe []string `yaml:"subscribe"` // topic filters; what they match is also delivered
}

// CheckRules lists what is wrong with rules.
func CheckRules(rules []Rule) (faults []error) {
	filters := 0
	for i, r := range rules {
		for _, f := range r.faults() {
			if len(faults) < maxFaults {
				faults = append(faults, fmt.Errorf("rule %d%w", i+1, f))
			}
		}
		filters += len(r.Publish) + len(r.Subscribe)
	}
	switch {
	case len(rules) == 0:
		faults = append(faults, errors.New("has no rule, so that nobody could do anything: write one, or leave it out to allow everything"))
	case len(rules) > maxRules || filters > maxFilters:
		faults = append(faults, fmt.Errorf("has %d rules with %d filters: at most %d and %d are possible; use %%u and %%c", len(rules), filters, maxRules, maxFilters))
	}
	return faults
}

// faults lists what is wrong with a rule, each with the key in front.
func (r Rule) faults() (faults []error) {
	if r.User != Everyone {
		if err := checkUser(r.User); err != nil {
			faults = append(faults, fmt.Errorf(", user: %w: write a user's name, %q for all of them, or %q", err, Everyone, Anonymous))
		}
	}
	if len(r.Publish)+len(r.Subscribe) == 0 {
		faults = append(faults, errors.New(" allows nothing: write publish or subscribe, each a list of topic filters"))
	}
	for _, l := range []struct {
		key     string
		filters []string
	}{{"publish", r.Publish}, {"subscribe", r.Subscribe}} {
		for _, f := range l.filters {
			err := functions.CheckFilter(expand(f, "u", "c"))
			if err == nil && r.User == Anonymous && strings.Contains(f, "%u") {
				err = fmt.Errorf("topic filter %q: who is anonymous has no user name for %%u", f)
			}
			if err != nil {
				faults = append(faults, fmt.Errorf(", %s: %w", l.key, err))
			}
		}
	}
	return faults
}

func expand(filter, user, client string) string {
	return strings.NewReplacer("%u", user, "%c", client).Replace(filter)
}

// plain reports whether a value stands for one level of a topic, or a part of
// it, wherever it is put.
func plain(value string) bool {
	return value != "" && !strings.HasPrefix(value, "$") && !strings.ContainsAny(value, "+#/\x00")
}

// grants are the filters of one client.
type grants struct{ publish, subscribe []string }

// grantsOf chooses what the rules give to a client; user is empty for one that
// is anonymous.
func grantsOf(rules []Rule, user, client string) *grants {
	g := &grants{}
	add := func(to *[]string, filters []string) {
		for _, f := range filters {
			if strings.Contains(f, "%u") && !plain(user) || strings.Contains(f, "%c") && !plain(client) {
				continue
			}
			*to = append(*to, expand(f, user, client))
		}
	}
	for _, r := range rules {
		anonymous := r.User == Anonymous // and no user of that name
		if user == "" && anonymous || user != "" && !anonymous && (r.User == Everyone || r.User == user) {
			add(&g.publish, r.Publish)
			add(&g.subscribe, r.Subscribe)
		}
	}
	return g
}

// matchesAny reports whether one of the filters matches a topic.
func matchesAny(filters []string, topic string) bool {
	for _, f := range filters {
		if functions.TopicMatches(f, topic) {
			return true
		}
	}
	return false
}

// covers reports whether every topic that a valid filter matches is matched by
// one of those allowed. They may cover it together: a, a/+ and a/+/# cover a/#.
func covers(allowed []string, filter string) bool {
	tails := make([]tail, 0, len(allowed))
	dollar := strings.HasPrefix(filter, "$")
	for _, a := range allowed {
		if dollar && !strings.HasPrefix(a, "$") {
			continue // a wildcard does not match it there [MQTT-4.7.2-1]
		}
		tails = append(tails, tail{rest: a, more: true})
	}
	return coversTail(tails, tail{rest: filter, more: true})
}

// tail is the levels of a filter that are still to be looked at.
type tail struct {
	rest string
	more bool // false: there is none left
}

func (t tail) cut() (level string, next tail) {
	level, rest, more := strings.Cut(t.rest, "/")
	return level, tail{rest, more}
}

// coversTail compares what follows levels that are covered already. There are
// more words than filters can name, so that only + and # cover a +; a # stands
// for nothing, or for a + and then a # again.
func coversTail(allowed []tail, want tail) bool {
	for first := true; len(allowed) > 0; first = false {
		level, next := "", tail{}
		if want.more {
			level, next = want.cut()
		}
		ends := false
		var rest []tail
		for _, a := range allowed {
			if !a.more {
				ends = true
				continue
			}
			l, n := a.cut()
			switch {
			case l == "#":
				return true // the level above it, too [MQTT-4.7.1-2]
			case want.more && (l == "+" || l == level && level != "#"):
				rest = append(rest, n)
			}
		}
		switch {
		case !want.more:
			return ends
		case level == "#":
			if !ends && !first { // no topic is empty
				return false
			}
			next = want
		}
		allowed, want = rest, next
	}
	return false
}
