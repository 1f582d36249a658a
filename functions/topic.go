package functions

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// CheckTopic reports why topic cannot be published to, or nil.
// [MQTT-3.3.2-2] [MQTT-4.7.3-1]
func CheckTopic(topic string) error {
	if err := checkTopicText(topic); err != nil {
		return err
	}
	if strings.ContainsAny(topic, "+#") {
		return fmt.Errorf("topic %q has a wildcard (+ or #): a message goes to one topic", topic)
	}
	return nil
}

// CheckFilter reports why filter is no topic filter, or nil.
// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1]
func CheckFilter(filter string) error {
	if err := checkTopicText(filter); err != nil {
		return err
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		switch {
		case strings.Contains(l, "#") && l != "#":
			return fmt.Errorf("topic filter %q: # must stand alone in its level", filter)
		case l == "#" && i != len(levels)-1:
			return fmt.Errorf("topic filter %q: # must be the last level", filter)
		case strings.Contains(l, "+") && l != "+":
			return fmt.Errorf("topic filter %q: + must stand alone in its level", filter)
		}
	}
	return nil
}

func checkTopicText(s string) error {
	switch {
	case s == "":
		return errors.New("topic is empty")
	case len(s) > MaxTopic:
		return fmt.Errorf("topic is %d bytes long, at most %d are allowed", len(s), MaxTopic)
	case !utf8.ValidString(s):
		return fmt.Errorf("topic %q is not UTF-8", s)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("topic %q has a NUL character", s)
	}
	return nil
}

// TopicMatches reports whether a valid topic filter matches a topic name. A
// filter that begins with a wildcard does not match a topic that begins with
// $ [MQTT-4.7.2-1].
func TopicMatches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !fmore && !tmore:
			return true
		case fmore && !tmore:
			return frest == "#" // "a/#" matches "a" [MQTT-4.7.1.2]
		case !fmore:
			return false
		}
		filter, topic = frest, trest
	}
}

// FiltersOverlap reports whether some topic matches both filters.
func FiltersOverlap(a, b string) bool {
	if strings.HasPrefix(a, "$") != strings.HasPrefix(b, "$") {
		return false
	}
	for first := true; ; first = false {
		x, xrest, xmore := strings.Cut(a, "/")
		y, yrest, ymore := strings.Cut(b, "/")
		if x == "#" || y == "#" {
			return true
		}
		if x != "+" && y != "+" && x != y {
			return false
		}
		// A topic of one empty level would be the empty topic, which there is not.
		some := !first || x != "" && y != ""
		switch {
		case !xmore && !ymore:
			return some
		case !xmore:
			return some && yrest == "#"
		case !ymore:
			return some && xrest == "#"
		}
		a, b = xrest, yrest
	}
}
