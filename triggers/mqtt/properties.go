package mqtt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/edgefn/edgefn/functions"
)

// maxUserBytes bounds the user properties of an event, in bytes of the attribute
// that has all of them. It leaves room for a topic and the rest in what the
// attributes of an event may take.
const maxUserBytes = 16 << 10

// textUTF8 is the media type of a payload of which only its format indicator is
// known.
const textUTF8 = "text/plain; charset=utf-8"

// addProperties gives an event the attributes for what MQTT 5 says of its message.
//
// User properties are in functions.ExtMQTTProperties, all of them, in order and
// whatever their names are. One whose name can be part of an attribute's name,
// lower-case letters and digits, also has the attribute mqttuserNAME; of several
// with one name it is the first. Text that CloudEvents has no room for, with
// control characters, is in the former only, and a content type or response topic
// like that is left out.
func addProperties(e *functions.Event, m Message) {
	e.Expires = m.Expires
	switch {
	case m.ContentType != "" && attributeValue(m.ContentType):
		e.DataContentType = m.ContentType
	case m.ContentType == "" && m.UTF8 && utf8.Valid(m.Payload):
		e.DataContentType = textUTF8
	}
	if m.ResponseTopic != "" && functions.CheckTopic(m.ResponseTopic) == nil && attributeValue(m.ResponseTopic) {
		e.Extensions[functions.ExtMQTTResponseTopic] = m.ResponseTopic
	}
	if len(m.Correlation) > 0 {
		e.Extensions[functions.ExtMQTTCorrelation] = base64.StdEncoding.EncodeToString(m.Correlation)
	}
	if len(m.User) > 0 {
		addUser(e, m.User)
	}
}

func addUser(e *functions.Event, user []functions.UserProperty) {
	list, taken := []byte{'['}, 0
	for ; taken < min(len(user), functions.MaxUserProperties); taken++ {
		u := user[taken]
		if len(list)+len(u.Name)+len(u.Value) > maxUserBytes {
			break // before it is encoded, which costs more
		}
		n := len(list)
		if taken > 0 {
			list = append(list, ',')
		}
		if list = append(list, pair(u)...); len(list) >= maxUserBytes {
			list = list[:n]
			break
		}
		name := functions.ExtMQTTUser + u.Name
		if _, had := e.Extensions[name]; !had && attributeName(u.Name) && attributeValue(u.Value) {
			e.Extensions[name] = u.Value
		}
	}
	e.Extensions[functions.ExtMQTTProperties] = string(append(list, ']'))
	if left := len(user) - taken; left > 0 {
		e.Extensions[functions.ExtMQTTOmitted] = strconv.Itoa(left)
	}
}

// pair is a user property as a JSON array.
func pair(u functions.UserProperty) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode([2]string{u.Name, u.Value}) // of two strings it never fails
	out := bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	if bytes.ContainsFunc(out, unicode.IsControl) { // from U+007F on JSON leaves them as they are
		var esc []byte
		for _, r := range string(out) {
			if unicode.IsControl(r) {
				esc = append(esc, `\u00`...)
				esc = append(esc, "0123456789abcdef"[r>>4], "0123456789abcdef"[r&15])
				continue
			}
			esc = utf8.AppendRune(esc, r)
		}
		return esc
	}
	return out
}

// attributeName reports whether s can be part of the name of an attribute of
// CloudEvents.
func attributeName(s string) bool {
	return s != "" && len(s) <= maxAttributeName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// maxAttributeName bounds the name of a user property that gets an attribute of
// its own, in bytes.
const maxAttributeName = 64

// attributeValue reports whether s can be the value of an attribute of CloudEvents.
func attributeValue(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
