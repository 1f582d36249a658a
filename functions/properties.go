package functions

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Properties are what MQTT 5 says of a message beside its topic and payload.
// MQTT 3.1.1 has none of them.
type Properties struct {
	ContentType   string         // of the payload; empty: not told
	ResponseTopic string         // where an answer is expected; empty: nowhere
	Correlation   []byte         // what an answer carries, so that the one who asked knows its request; nil: nothing
	User          []UserProperty // in their order; names may repeat
	Expires       time.Time      // when the message is of no more use; zero: never
}

// UserProperty is a name and a value that the applications agree on.
type UserProperty struct {
	_     struct{} `cbor:",toarray"` // stored and sent as an array of two
	Name  string
	Value string
}

// Bounds of the properties of a message that a function publishes.
const (
	MaxUserProperties = 64
	MaxProperties     = 32 << 10  // bytes of all of them
	MaxExpiry         = 1<<32 - 1 // seconds [MQTT-3.3.2.3.3]
	maxText           = 65535     // bytes of a string or of binary data [MQTT 5, sections 1.5.4 and 1.5.6]
)

// Size is how many bytes the properties have.
func (p *Properties) Size() int {
	n := len(p.ContentType) + len(p.ResponseTopic) + len(p.Correlation)
	for _, u := range p.User {
		n += len(u.Name) + len(u.Value)
	}
	return n
}

// None reports whether the message has no properties.
func (p *Properties) None() bool { return p.Size() == 0 && len(p.User) == 0 && p.Expires.IsZero() }

// Expired reports whether the message is of no more use.
func (p *Properties) Expired(now time.Time) bool {
	return !p.Expires.IsZero() && !now.Before(p.Expires)
}

// Interval is what is left until the message expires, in whole seconds as MQTT
// has it and at least 1; 0: it never does.
func (p *Properties) Interval(now time.Time) uint32 {
	if p.Expires.IsZero() {
		return 0
	}
	left := (p.Expires.Sub(now) + time.Second - 1) / time.Second
	return uint32(min(max(left, 1), MaxExpiry))
}

// Check reports why a message cannot be published with these properties, or nil.
func (p *Properties) Check() error {
	switch {
	case len(p.User) > MaxUserProperties:
		return fmt.Errorf("it has %d user properties, at most %d are possible", len(p.User), MaxUserProperties)
	case p.Size() > MaxProperties:
		return fmt.Errorf("its properties have %d bytes, at most %d are possible", p.Size(), MaxProperties)
	}
	if err := checkText("content type", p.ContentType); err != nil {
		return err
	}
	if p.ResponseTopic != "" {
		if err := CheckTopic(p.ResponseTopic); err != nil { // [MQTT-3.3.2-14]
			return fmt.Errorf("response topic: %w", err)
		}
	}
	for _, u := range p.User {
		if err := checkText("name of a user property", u.Name); err != nil {
			return err
		}
		if err := checkText(fmt.Sprintf("value of the user property %q", u.Name), u.Value); err != nil {
			return err
		}
	}
	return nil
}

// checkText reports why s is no string of MQTT [MQTT-1.5.4-1] [MQTT-1.5.4-2].
func checkText(what, s string) error {
	switch {
	case len(s) > maxText:
		return fmt.Errorf("%s has %d bytes, at most %d are possible", what, len(s), maxText)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%s %q has a NUL character", what, s)
	}
	return nil
}
