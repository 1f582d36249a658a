package access

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
)

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		allowed string // filters, by spaces
		filter  string
		want    bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a", false},
		{"a/b", "a/b/c", false},
		{"a/+", "a/b", true},
		{"a/+", "a/+", true},
		{"a/b", "a/+", false},
		{"a/+", "a/#", false},
		{"a/#", "a/#", true},
		{"a/#", "a", true},
		{"a/#", "a/+/c", true},
		{"a/#", "#", false},
		{"a/#", "+/b", false},
		{"#", "#", true},
		{"#", "+/+", true},
		{"+/#", "#", true},
		{"+/#", "a/#", true},
		{"+/+/#", "#", false},
		{"+ +/+/#", "#", true},
		{"a a/+ a/+/#", "a/#", true},
		{"a/+/#", "a/#", false}, // "a" itself
		{"a a/+/#", "a/#", true},
		{"a a/b/# a/c/#", "a/#", false},
		{"a/b a/c", "a/+", false}, // there are more words
		{"a/b a/+", "a/+", true},
		{"a/+/c a/+/+", "a/b/c", true},
		{"a/x/+ a/+/y", "a/x/y", true},
		{"a/x/+ a/+/y", "a/+/y", true},
		{"a/x/+ a/+/y", "a/x/+", true},
		{"a/x/+ a/+/y", "a/+/+", false},
		{"a//b", "a/+/b", false},
		{"a/+/b", "a//b", true},
		{"/#", "/a", true},
		{"/#", "a", false},
		{"#", "$SYS/#", false},
		{"+/#", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"$SYS/#", "#", false},
		{"", "a", false},
	} {
		t.Run(tc.allowed+" for "+tc.filter, func(t *testing.T) {
			if got := covers(strings.Fields(tc.allowed), tc.filter); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// A filter that is covered matches no topic that the allowed ones do not, and
// one that is not covered matches one.
func TestCoversHoldsForTopics(t *testing.T) {
	words := []string{"a", "b", "", "fresh"} // filters never name fresh
	var topics []string
	var build func(prefix string, depth int)
	build = func(prefix string, depth int) {
		for _, w := range words {
			topics = append(topics, prefix+w)
			if depth > 1 {
				build(prefix+w+"/", depth-1)
			}
		}
	}
	build("", 5)
	filter := rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "+", "+"}), 1, 3).Draw(t, "levels")
		if rapid.Bool().Draw(t, "hash") {
			levels[len(levels)-1] = "#"
		}
		return strings.Join(levels, "/")
	}).Filter(func(s string) bool { return s != "" })
	rapid.Check(t, func(t *rapid.T) {
		allowed := rapid.SliceOfN(filter, 0, 4).Draw(t, "allowed")
		want := filter.Draw(t, "filter")
		missed := ""
		for _, topic := range topics {
			if topic != "" && functions.TopicMatches(want, topic) && !matchesAny(allowed, topic) {
				missed = topic
				break
			}
		}
		if got := covers(allowed, want); got != (missed == "") {
			t.Fatalf("covers(%q, %q) is %v, but the first topic that is not allowed is %q", allowed, want, got, missed)
		}
	})
}

var testRules = []Rule{
	{User: Everyone, Publish: []string{"up/%u/%c/#"}, Subscribe: []string{"down/%u/+", "all/#"}},
	{User: "boss", Publish: []string{"#"}, Subscribe: []string{"#"}},
	{User: Anonymous, Publish: []string{"guest/%c"}, Subscribe: []string{"news"}},
	{User: "pipe", Publish: []string{"p-%u-%c/x"}},
}

func ruled(t *testing.T, user, id string) *Client {
	t.Helper()
	p, err := NewPolicy(Config{Rules: testRules}, NewLogins(LoginsConfig{}))
	if err != nil {
		t.Fatal(err)
	}
	return &Client{ID: id, User: user, policy: p}
}

func TestRules(t *testing.T) {
	for _, tc := range []struct {
		user, id string
		publish  map[string]bool
		filters  map[string]bool
	}{
		{
			"dev", "c1",
			map[string]bool{"up/dev/c1": true, "up/dev/c1/t": true, "up/dev/c2/t": false, "up/boss/c1/t": false, "all/x": false, "guest/c1": false},
			map[string]bool{"down/dev/x": true, "down/dev/+": true, "down/+/x": false, "down/#": false, "#": false, "all/#": true, "all/+": true, "news": false},
		},
		{"boss", "b", map[string]bool{"x": true, "$x": false}, map[string]bool{"#": true, "$SYS/#": false}},
		{"", "c1", map[string]bool{"guest/c1": true, "guest/c2": false, "up//c1/x": false}, map[string]bool{"news": true, "all/#": false}},
		{"pipe", "7", map[string]bool{"p-pipe-7/x": true, "p-pipe-8/x": false}, nil},
		// Values that would widen a filter give nothing.
		{"+", "c1", map[string]bool{"up/+/c1/x": false, "up/dev/c1/x": false}, map[string]bool{"down/+/+": false, "down/dev/x": false, "all/#": true}},
		{"#", "c1", map[string]bool{"up/#": false, "up/x": false}, map[string]bool{"down/#": false, "down/#/+": false}},
		{"a/b", "c1", map[string]bool{"up/a/b/c1": false}, map[string]bool{"down/a/b/+": false}},
		{"dev", "c1/x", map[string]bool{"up/dev/c1/x": false, "up/dev/c1/x/y": false}, map[string]bool{"down/dev/x": true}},
		{"dev", "+", map[string]bool{"up/dev/c1/x": false}, nil},
		{"dev", "#", map[string]bool{"up/dev/c1/x": false}, nil},
		{"$SYS", "c", map[string]bool{"up/$SYS/c": false}, nil},
		{"%c", "c", map[string]bool{"up/c/c/x": false, "up/%c/c/x": true}, nil}, // replaced once
		{Everyone, "c", map[string]bool{"up/*/c/x": true, "x": false}, map[string]bool{"#": false}},
		{Anonymous, "c", map[string]bool{"guest/c": false, "up/anonymous/c": true}, map[string]bool{"news": false}},
	} {
		t.Run(tc.user+" "+tc.id, func(t *testing.T) {
			c := ruled(t, tc.user, tc.id)
			for topic, want := range tc.publish {
				if got := c.MayPublish(topic); got != want {
					t.Errorf("publish to %q: %v, want %v", topic, got, want)
				}
			}
			for f, want := range tc.filters {
				if functions.CheckFilter(f) != nil {
					continue
				}
				if got := c.MaySubscribe(f); got != want {
					t.Errorf("subscribe to %q: %v, want %v", f, got, want)
				}
				if !strings.ContainsAny(f, "+#") && c.MayReceive(f) != want {
					t.Errorf("receive %q: %v, want %v", f, !want, want)
				}
			}
		})
	}
	free := &Client{policy: &Policy{}}
	if !free.MayPublish("x") || !free.MaySubscribe("#") || !free.MayReceive("x") {
		t.Error("without rules something is refused")
	}
}

func TestRuleFaults(t *testing.T) {
	many := make([]Rule, maxRules+1)
	for i := range many {
		many[i] = Rule{User: "a", Publish: []string{"x"}}
	}
	for name, tc := range map[string]struct {
		rules []Rule
		want  string
	}{
		"none":            {[]Rule{}, "has no rule"},
		"no user":         {[]Rule{{Publish: []string{"a"}}}, "rule 1, user: user name is empty"},
		"nothing":         {[]Rule{{User: "a"}}, "rule 1 allows nothing"},
		"filter":          {[]Rule{{User: "a", Publish: []string{"a", "a/#/b"}}}, `rule 1, publish: topic filter "a/#/b"`},
		"empty filter":    {[]Rule{{User: "a", Subscribe: []string{""}}}, "rule 1, subscribe: topic is empty"},
		"part of a level": {[]Rule{{User: "a", Subscribe: []string{"%u+"}}}, "+ must stand alone"},
		"anonymous %u":    {[]Rule{{User: Anonymous, Subscribe: []string{"%u"}}}, "no user name for %u"},
		"too many":        {many, "1001 rules"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(CheckRules(tc.rules)...); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q in it", err, tc.want)
			}
		})
	}
	if faults := CheckRules(testRules); faults != nil {
		t.Error(faults)
	}
}

func TestRulesFile(t *testing.T) {
	rules, err := parseRules("acl.yaml", []byte("# who may do what\n- user: '*'\n  publish: [\"up/%u/#\"]\n- {user: boss, subscribe: ['#']}\n"))
	if err != nil || len(rules) != 2 || rules[0].Publish[0] != "up/%u/#" || rules[1].User != "boss" {
		t.Fatalf("got %+v, %v", rules, err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":       {"", "has no rule"},
		"no list":     {"\nuser: a", "acl.yaml:2: want a list"},
		"no rule":     {"- a\n- b", "acl.yaml:2: want a rule"},
		"unknown key": {"- user: a\n  publsh: [a]", `acl.yaml:2: unknown key "publsh"`},
		"no filters":  {"- user: a\n  publish: [a]\n- user: b", "acl.yaml:3: rule 2 allows nothing"},
		"filter":      {"- user: a\n  publish: ['a/#/b']", "acl.yaml:1: rule 1, publish: topic filter"},
		"text":        {"- user: a\n  publish: a/b", "acl.yaml:2:"},
		"no YAML":     {"- user: [", "acl.yaml:"},
	} {
		t.Run(name, func(t *testing.T) {
			rules, err := parseRules("acl.yaml", []byte(tc.text))
			if rules != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v and error %v, want %q in it", rules, err, tc.want)
			}
		})
	}
}

// Whatever a file has, it is refused with its name, or is rules that hold.
func FuzzRulesFile(f *testing.F) {
	f.Add("- user: '*'\n  publish: [\"up/%u/#\"]\n")
	f.Add("- {user: a, subscribe: [&x '#', *x]}")
	f.Add("a: b")
	f.Add("- user: anonymous\n  publish: ['%c', '%u']")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parseRules("F", []byte(text))
		if err != nil {
			if rules != nil || !strings.Contains(err.Error(), "rules file F") {
				t.Fatalf("error %q with %v", err, rules)
			}
			return
		}
		if faults := CheckRules(rules); faults != nil {
			t.Fatal(faults)
		}
		for _, user := range []string{"", "a", "+", "#", "x/y"} {
			g := grantsOf(rules, user, user)
			for _, filter := range append(g.publish, g.subscribe...) {
				if err := functions.CheckFilter(filter); err != nil {
					t.Fatal(fmt.Errorf("user %q: %w", user, err))
				}
			}
		}
	})
}
