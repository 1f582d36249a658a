package main

import (
	"io"
	"net"
	"slices"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func publish(payload string) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.Payload = 2, []byte(payload)
	return p
}

// TestLedger goes the way of a QoS 2 and a QoS 1 message through paho's store.
func TestLedger(t *testing.T) {
	var acked []string
	l := newLedger(func(p []byte) { acked = append(acked, string(p)) })
	l.Put("o.1", publish("first"))
	l.Put("o.2", publish("second"))
	l.Put("i.1", publish("incoming"))
	l.Put("o.1", packets.NewControlPacket(packets.Pubrel)) // PUBREC came: only its PUBREL is to be sent again
	if got := l.All(); !slices.Equal(got, []string{"o.1", "o.2", "i.1"}) {
		t.Errorf("sent again in the order %v", got)
	}
	if len(acked) != 0 || l.outstanding() != 2 || !l.has([]byte("first")) || l.has([]byte("incoming")) {
		t.Errorf("acknowledged %v, outstanding %d", acked, l.outstanding())
	}
	l.Close() // a connection ends
	l.Del("o.2")
	l.Del("i.1")
	l.Del("o.1")
	if !slices.Equal(acked, []string{"second", "first"}) || l.outstanding() != 0 || len(l.All()) != 0 {
		t.Errorf("acknowledged %v, outstanding %d", acked, l.outstanding())
	}
}

// TestLedgerKeepsPubrel sends PUBREL: a message that was there is not sent again.
func TestLedgerKeepsPubrel(t *testing.T) {
	l := newLedger(func([]byte) {})
	l.Put("o.7", publish("seventh"))
	nc, broker := net.Pipe()
	defer func() { _ = nc.Close() }()
	go func() { _, _ = io.Copy(io.Discard, broker) }()
	for _, id := range []uint16{7, 8} {
		pk := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
		pk.MessageID = id
		if err := pk.Write(releases{nc, l}); err != nil {
			t.Fatal(err)
		}
	}
	if pk, ok := l.Get("o.7").(*packets.PubrelPacket); !ok || pk.MessageID != 7 || !l.has([]byte("seventh")) {
		t.Errorf("sent again is %v", l.Get("o.7"))
	}
	if l.Get("o.8") != nil {
		t.Errorf("%v is of no message", l.Get("o.8"))
	}
}
