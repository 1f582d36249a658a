package broker

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
)

// The tree finds what functions.TopicMatches finds one by one, and is empty
// when everything was removed.
func TestSubscriptionsMatchLikeFilters(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", "", "$x", "+"})
	filter := rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOfN(part, 1, 4).Draw(t, "parts")
		if rapid.Bool().Draw(t, "hash") {
			parts = append(parts, "#")
		}
		return strings.Join(parts, "/")
	}).Filter(func(s string) bool { return functions.CheckFilter(s) == nil })
	topic := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$x"}), 1, 5).Draw(t, "parts"), "/")
	}).Filter(func(s string) bool { return s != "" })

	rapid.Check(t, func(t *rapid.T) {
		var x subscriptions
		sessions := []*session{(&Broker{}).newSession("s0", 0), (&Broker{}).newSession("s1", 1)}
		has := []map[string]byte{{}, {}}
		for range rapid.IntRange(0, 8).Draw(t, "n") {
			i := rapid.IntRange(0, 1).Draw(t, "session")
			f, qos := filter.Draw(t, "filter"), byte(rapid.IntRange(0, 2).Draw(t, "qos"))
			_, had := has[i][f]
			if isNew := x.add(sessions[i], subscription{Filter: f, QoS: qos}); isNew == had {
				t.Fatalf("add %q: new %v, had %v", f, isNew, had)
			}
			has[i][f] = qos
		}
		for range 5 {
			name := topic.Draw(t, "topic")
			got := x.match(name, "")
			for i, s := range sessions {
				want := -1
				for f, qos := range has[i] {
					if functions.TopicMatches(f, name) {
						want = max(want, int(qos))
					}
				}
				k := slices.IndexFunc(got, func(m match) bool { return m.s == s })
				switch {
				case want < 0 && k >= 0, want >= 0 && k < 0:
					t.Fatalf("topic %q, filters %v: matched %v", name, has[i], k >= 0)
				case k >= 0 && int(got[k].qos) != want:
					t.Fatalf("topic %q, filters %v: QoS %d, want %d", name, has[i], got[k].qos, want)
				}
			}
		}
		for i, s := range sessions {
			for f := range has[i] {
				if !x.remove(s, f) {
					t.Fatalf("remove %q: not there", f)
				}
			}
		}
		if !x.root.empty() || x.len() != 0 {
			t.Fatalf("tree is not empty: %d left", x.len())
		}
	})
}
