package mqtt_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
)

// ok5 is a CONNACK of MQTT 5 with some properties.
func ok5(properties ...byte) []byte {
	return append([]byte{0x20, byte(3 + len(properties)), 0, 0, byte(len(properties))}, properties...)
}

// fake is a broker made by hand.
type fake struct {
	// connack is its answer to a CONNECT of that version and client id; nil hangs up.
	connack func(version byte, client string) []byte
	// answer is what it says to a PUBLISH; nil hangs up. Its packet id is filled in
	// at byte 2 of each answer with an id.
	answer func(p published) []byte
	// subscribed is what it says after each SUBACK; nil: nothing.
	subscribed func(version byte) []byte
	// acked gets the packet id of each PUBACK; nil: nobody wants it.
	acked chan<- []byte

	url string

	mu       sync.Mutex
	connects []string // version and client id of each CONNECT
	got      []published
}

// published is a PUBLISH.
type published struct {
	client, topic string
	qos           byte
	id            [2]byte
	dup           bool
	size          int // of the payload
}

func (f *fake) start(t *testing.T) *fake {
	t.Helper()
	if f.connack == nil {
		f.connack = func(byte, string) []byte { return ok5() }
	}
	f.url = rogue(t, f.serve)
	return f
}

func (f *fake) serve(in *bufio.Reader, out io.Writer) {
	var version byte
	var client string
	for {
		head, body, err := longPacket(in)
		if err != nil {
			return
		}
		var answer []byte
		switch head >> 4 {
		case 1:
			version = body[6]
			rest := body[10:]
			if version == 5 {
				rest = rest[1+rest[0]:] // the properties
			}
			client = string(rest[2 : 2+rest[1]])
			answer = f.connack(version, client)
			f.mu.Lock()
			f.connects = append(f.connects, fmt.Sprint(version, " ", client))
			f.mu.Unlock()
		case 3:
			p := published{client: client, qos: head >> 1 & 3, dup: head&8 != 0, topic: string(body[2 : 2+body[1]])}
			rest := body[2+body[1]:]
			if p.qos > 0 {
				p.id = [2]byte(rest)
				rest = rest[2:]
			}
			if version == 5 {
				rest = rest[1+rest[0]:]
			}
			p.size = len(rest)
			f.mu.Lock()
			f.got = append(f.got, p)
			f.mu.Unlock()
			if p.qos == 0 {
				continue
			}
			answer = bytes.Clone(f.answer(p))
			if len(answer) > 3 && answer[0]>>4 < 14 {
				copy(answer[2:], p.id[:])
			}
		case 8: // every subscription is granted
			answer = []byte{0x90, 3, body[0], body[1], 1}
			if version == 5 {
				answer = []byte{0x90, 4, body[0], body[1], 0, 1}
			}
			if f.subscribed != nil {
				answer = append(answer, f.subscribed(version)...)
			}
		case 4:
			if f.acked != nil {
				f.acked <- body[:2]
			}
			continue
		case 6:
			answer = []byte{0x70, 2, body[0], body[1]}
		case 12:
			answer = []byte{0xd0, 0}
		default:
			continue
		}
		if len(answer) == 0 {
			return
		}
		if _, err := out.Write(answer); err != nil {
			return
		}
	}
}

func (f *fake) seen() (connects []string, got []published) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(connects, f.connects...), append(got, f.got...)
}

// longPacket reads a packet of any length and returns its first byte whole.
func longPacket(in *bufio.Reader) (head byte, body []byte, err error) {
	if head, err = in.ReadByte(); err != nil {
		return 0, nil, err
	}
	size := 0
	for shift := 0; ; shift += 7 {
		b, err := in.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		size |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
	}
	body = make([]byte, size)
	_, err = io.ReadFull(in, body)
	return head, body, err
}

// take acknowledges a message.
func take(p published) []byte {
	if p.qos == 2 {
		return []byte{0x50, 2, 0, 0}
	}
	return []byte{0x40, 2, 0, 0}
}
