package mqtt

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// maxClientID bounds a client id, in bytes.
const maxClientID = 64

// ClientID returns the id under which a trigger's session is kept at a broker:
// readable, always the same for the same names, different for others, up to 64
// bytes of [0-9A-Za-z-].
//
// MQTT 3.1.1 obliges a broker to take 1 to 23 bytes of [0-9A-Za-z] and allows
// it to take more [MQTT-3.1.3-5]. The brokers in use take more; one that does
// not refuses the connection as "identifier rejected", which Source.Status
// tells.
func ClientID(node, function, trigger string) string {
	// The lengths of names are bounded elsewhere; NUL is in none of them.
	sum := sha256.Sum256([]byte(node + "\x00" + function + "\x00" + trigger))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10])) // 80 bits, 16 characters, no padding
	name := "edgefn-" + plain(node) + "-" + plain(function) + "-" + plain(trigger)
	if room := maxClientID - 1 - len(hash); len(name) > room {
		name = name[:room]
	}
	return name + "-" + hash
}

// plain replaces whatever a broker or a shell might stumble over.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-':
			return r
		default:
			return '-'
		}
	}, s)
}
