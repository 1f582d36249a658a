package mqtt

import (
	"testing"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
)

func TestMessageOfMQTT5(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	live, utf8, expiry := liveID, byte(1), uint32(60)
	got := message5(&packets5.Publish{
		Topic: "a", Payload: []byte("1"), QoS: 1, Retain: true, PacketID: 7,
		Properties: &packets5.Properties{
			SubscriptionIdentifier: &live, PayloadFormat: &utf8, MessageExpiry: &expiry, ContentType: "text/csv",
			ResponseTopic: "r", CorrelationData: []byte{0, 1}, User: []packets5.User{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}},
		},
	}, now)
	want := Message{
		Topic: "a", Payload: []byte("1"), QoS: 1, PacketID: 7, UTF8: true,
		Properties: functions.Properties{
			ContentType: "text/csv", ResponseTopic: "r", Correlation: []byte{0, 1}, Expires: now.Add(time.Minute),
			User: []functions.UserProperty{{Name: "k", Value: "v"}, {Name: "k", Value: "w"}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDigestOfProperties tells messages apart that a function can, and no others.
func TestDigestOfProperties(t *testing.T) {
	base := Message{Payload: []byte("1")}
	seen := map[any]string{digestOf(base): "nothing"}
	for name, p := range map[string]functions.Properties{
		"content type":   {ContentType: "x"},
		"response topic": {ResponseTopic: "x"},
		"correlation":    {Correlation: []byte("x")},
		"user property":  {User: []functions.UserProperty{{Name: "x"}}},
		"its value":      {User: []functions.UserProperty{{Value: "x"}}},
	} {
		m := base
		m.Properties = p
		if other, had := seen[digestOf(m)]; had {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[digestOf(m)] = name
	}
	later := base
	later.Expires = time.Now()
	if digestOf(later) != digestOf(base) {
		t.Error("an expiry makes it another message")
	}
}
