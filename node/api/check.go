package api

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/edgefn/edgefn/functions"
)

// Bounds on what a path or query may hold.
const (
	maxName    = 63   // bytes of a function's name
	maxID      = 512  // bytes of a dead letter's id
	maxVersion = 128  // bytes of a version or its prefix
	maxPage    = 1000 // keys of one page of StateList, clients of one of MQTTClients
	maxClient  = 1024 // bytes of an MQTT client id
)

// checkName reports why name cannot name a function. Both ends call it, so
// that a name never changes which resource a path means.
func checkName(name string) error {
	ok := len(name) >= 1 && len(name) <= maxName
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("function name %s: 1 to %d lower-case letters, digits and hyphens make a name: %w", shorten(name), maxName, ErrInvalid)
	}
	return nil
}

// checkDevice reports why name cannot name a device.
func checkDevice(name string) error {
	if !functions.ValidDevice(name) {
		return fmt.Errorf("device name %s: 1 to %d lower-case letters, digits, hyphens and underscores make a name: %w", shorten(name), maxName, ErrInvalid)
	}
	return nil
}

// checkKey reports why key cannot be a key of a function's state.
func checkKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("state key is empty: %w", ErrInvalid)
	case len(key) > functions.MaxKey:
		return fmt.Errorf("state key %s is %d bytes long, at most %d are allowed: %w", shorten(key), len(key), functions.MaxKey, ErrInvalid)
	case !utf8.ValidString(key):
		return fmt.Errorf("state key %s is not UTF-8: %w", shorten(key), ErrInvalid)
	}
	return nil
}

// checkPrefix is checkKey for a prefix or a place in a listing, which may be empty.
func checkPrefix(what, s string) error {
	if len(s) > functions.MaxKey || !utf8.ValidString(s) {
		return fmt.Errorf("%s %s: at most %d bytes of UTF-8 are allowed: %w", what, shorten(s), functions.MaxKey, ErrInvalid)
	}
	return nil
}

// checkText reports why s cannot be an identifier of at most limit bytes.
func checkText(what, s string, limit int) error {
	bad := s == "" || len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
	if bad {
		return fmt.Errorf("%s %s: 1 to %d bytes of printable text are allowed: %w", what, shorten(s), limit, ErrInvalid)
	}
	return nil
}

// shorten quotes s for a message, its first 80 bytes at most.
func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}

// escape makes s one segment of a path. Unlike url.PathEscape it escapes dots
// too, since a segment of dots alone would be taken for a step in the path.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}
