package mqtt

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// lookup follows a JSON pointer (RFC 6901) into a JSON document and returns
// the text or the number there; a number as it is written. ok is false where
// the document is no JSON, the pointer is none or leads nowhere, or the value
// is neither text nor number. Only the levels on the pointer's way are decoded.
func lookup(doc []byte, pointer string) (value string, ok bool) {
	if pointer != "" && pointer[0] != '/' {
		return "", false
	}
	if !json.Valid(doc) {
		return "", false
	}
	cur := json.RawMessage(doc)
	for pointer != "" {
		var token string
		token, pointer = cutToken(pointer)
		if cur, ok = step(cur, token); !ok {
			return "", false
		}
	}
	return scalar(cur)
}

// cutToken takes the first reference token off a pointer that begins with /.
// ~1 stands for / and ~0 for ~, decoded in this order (RFC 6901, section 4).
func cutToken(pointer string) (token, rest string) {
	token = pointer[1:]
	if i := strings.IndexByte(token, '/'); i >= 0 {
		token, rest = token[:i], token[i:]
	}
	token = strings.ReplaceAll(token, "~1", "/")
	return strings.ReplaceAll(token, "~0", "~"), rest
}

// step goes one level down.
func step(v json.RawMessage, token string) (json.RawMessage, bool) {
	switch first(v) {
	case '{':
		var m map[string]json.RawMessage
		if json.Unmarshal(v, &m) != nil {
			return nil, false
		}
		next, ok := m[token]
		return next, ok
	case '[':
		i, ok := index(token)
		if !ok {
			return nil, false
		}
		var a []json.RawMessage
		if json.Unmarshal(v, &a) != nil || i >= len(a) {
			return nil, false
		}
		return a[i], true
	default:
		return nil, false
	}
}

// index reads an array index: digits without a leading zero (RFC 6901, section 4).
func index(token string) (int, bool) {
	if len(token) > 1 && token[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(token, 10, 31) // takes no sign
	return int(n), err == nil
}

func scalar(v json.RawMessage) (string, bool) {
	switch c := first(v); {
	case c == '"':
		var s string
		err := json.Unmarshal(v, &s)
		return s, err == nil
	case c == '-' || c >= '0' && c <= '9':
		return string(bytes.TrimSpace(v)), true
	default:
		return "", false
	}
}

// first is the first byte of a JSON value, or 0.
func first(v json.RawMessage) byte {
	v = bytes.TrimLeft(v, " \t\r\n")
	if len(v) == 0 {
		return 0
	}
	return v[0]
}
