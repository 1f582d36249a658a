package functions_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
)

func TestCheckTopicAndFilter(t *testing.T) {
	tests := []struct {
		text          string
		topic, filter bool
	}{
		{"a", true, true},
		{"/", true, true},
		{"a//b", true, true},
		{"", false, false},
		{"a/+", false, true},
		{"+/b/#", false, true},
		{"#", false, true},
		{"a/#/b", false, false},
		{"a#", false, false},
		{"a+/b", false, false},
		{"a\x00", false, false},
		{"a\xff", false, false},
		{strings.Repeat("a", functions.MaxTopic), true, true},
		{strings.Repeat("a", functions.MaxTopic+1), false, false},
	}
	for _, tt := range tests {
		if err := functions.CheckTopic(tt.text); (err == nil) != tt.topic {
			t.Errorf("CheckTopic(%.20q) = %v, want ok %v", tt.text, err, tt.topic)
		}
		if err := functions.CheckFilter(tt.text); (err == nil) != tt.filter {
			t.Errorf("CheckFilter(%.20q) = %v, want ok %v", tt.text, err, tt.filter)
		}
	}
}

func TestTopicMatches(t *testing.T) {
	tests := []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/+", "a/b", true},
		{"a/+", "a/", true},
		{"a/+", "a", false},
		{"a/+", "a/b/c", false},
		{"+/+", "/a", true},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"#", "a/b", true},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
	}
	for _, tt := range tests {
		if got := functions.TopicMatches(tt.filter, tt.topic); got != tt.want {
			t.Errorf("TopicMatches(%q, %q) = %v, want %v", tt.filter, tt.topic, got, tt.want)
		}
	}
}

func TestFiltersOverlap(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"a/b", "a/b", true},
		{"a/+", "+/b", true},
		{"a/+", "b/+", false},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "b/#", false},
		{"+/+", "a", false},
		{"#", "$SYS/#", false},
		{"a/b/#", "a/+/c/d", true},
	}
	for _, tt := range tests {
		if got := functions.FiltersOverlap(tt.a, tt.b); got != tt.want {
			t.Errorf("FiltersOverlap(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
		if got := functions.FiltersOverlap(tt.b, tt.a); got != tt.want {
			t.Errorf("FiltersOverlap(%q, %q) = %v, want %v", tt.b, tt.a, got, tt.want)
		}
	}
}

// Two filters overlap exactly when a topic of their alphabet matches both.
func TestFiltersOverlapIsWhatTopicsSay(t *testing.T) {
	var topics []string
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, l := range []string{"a", "b", "", "$x"} {
			topic := prefix + l
			if topic != "" {
				topics = append(topics, topic)
			}
			if depth > 1 {
				grow(topic+"/", depth-1)
			}
		}
	}
	grow("", 4)
	filter := rapid.Custom(func(t *rapid.T) string {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "+", "$x"}), 1, 3).Draw(t, "levels")
		if rapid.Bool().Draw(t, "all") {
			levels[len(levels)-1] = "#"
		}
		return strings.Join(levels, "/")
	}).Filter(func(s string) bool { return functions.CheckFilter(s) == nil })
	rapid.Check(t, func(t *rapid.T) {
		a, b := filter.Draw(t, "a"), filter.Draw(t, "b")
		want := false
		for _, topic := range topics {
			if functions.TopicMatches(a, topic) && functions.TopicMatches(b, topic) {
				want = true
				break
			}
		}
		if got := functions.FiltersOverlap(a, b); got != want {
			t.Fatalf("FiltersOverlap(%q, %q) = %v, but topics say %v", a, b, got, want)
		}
	})
}
