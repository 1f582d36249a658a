package mqtt_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/triggers"
	"github.com/edgefn/edgefn/triggers/mqtt"
	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// What a function says of its message arrives at a broker outside over MQTT 5.
// Over 3.1.1 the message arrives without.
func TestPropertiesToABroker(t *testing.T) {
	for _, version := range []string{"auto", "5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			got := make(sink, 10)
			b, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: t.TempDir(), Sink: got})
			if err != nil {
				t.Fatal(err)
			}
			tr := trigger("out/#", 2)
			tr.MQTT.Broker = functions.LocalBroker
			b.Bind([]triggers.Binding{{Function: "f", Trigger: tr}})
			if err := b.Listen(); err != nil {
				t.Fatal(err)
			}
			run(t, b.Run)
			at := at("mqtt://" + b.Addr())
			at.Version = version
			p, err := mqtt.NewPublisher(mqtt.PublisherConfig{Broker: at, ClientID: "p", Backoff: quick})
			if err != nil {
				t.Fatal(err)
			}
			run(t, p.Run)
			_ = await(t, p, mqtt.StateConnected)
			want := map[string]string{"mqttqos": "0", "mqttretain": "false", "mqttdup": "false"}
			content := ""
			if version != "3.1.1" {
				want["mqttresponsetopic"], want["mqttcorrelation"], want["mqttusertag"], want["mqttproperties"] = "ask", "AP8=", "a", `[["tag","a"],["tag","b"]]`
				content = "text/csv"
			}
			for name, send := range map[string]func(context.Context, functions.Publish) error{"publish": p.Publish, "alone": p.PublishAlone} {
				m := functions.Publish{Topic: "out/" + name, Data: []byte("x"), QoS: 1, Properties: functions.Properties{
					ContentType: "text/csv", ResponseTopic: "ask", Correlation: []byte{0, 0xff},
					User:    []functions.UserProperty{{Name: "tag", Value: "a"}, {Name: "tag", Value: "b"}},
					Expires: time.Now().Add(time.Minute),
				}}
				sent := make(chan error, 1)
				go func() { sent <- send(t.Context(), m) }()
				d := got.next(t)
				d.Settle(nil)
				if err := <-sent; err != nil {
					t.Error(err)
				}
				want["mqttqos"] = "1"
				if diff := cmp.Diff(want, d.Event.Extensions); diff != "" || d.Event.DataContentType != content {
					t.Errorf("%s: content type %q, extensions (-want +got):\n%s", name, d.Event.DataContentType, diff)
				}
				if left := time.Until(d.Event.Expires); version != "3.1.1" && (left < 50*time.Second || left > time.Minute) {
					t.Errorf("%s: it expires in %v, want a minute", name, left)
				}
				// One that has expired is not sent, which is no error.
				m.Expires = time.Now()
				if err := send(t.Context(), m); err != nil {
					t.Errorf("%s of what has expired: %v", name, err)
				}
			}
			if len(got) != 0 {
				t.Errorf("%d more messages came", len(got))
			}
		})
	}
}
