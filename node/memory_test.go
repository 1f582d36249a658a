package node_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// What the source of a trigger remembers outlives the node, but neither the
// trigger nor the function.
func TestMemoryOfSources(t *testing.T) {
	w := newWorld(t)
	w.handle("one", echo)
	w.handle("two", echo)
	at := func(name, topic string) functions.Trigger {
		return functions.Trigger{Name: name, Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: topic, Broker: "plant"}}
	}
	f := function("fan", "one")
	f.Triggers = []functions.Trigger{at("stays", "a"), at("goes", "b")}
	n, stop := w.run(w.config())
	deploy(t, n, f)
	for _, name := range []string{"stays", "goes"} {
		if err := w.sources[name].memory.Save(t.Context(), map[string][]byte{"00": []byte(name), "01": []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sources["stays"].memory.Save(t.Context(), map[string][]byte{"01": nil}); err != nil {
		t.Fatal(err)
	}
	stop()
	n, _ = w.run(w.config())
	want := func(name string, want map[string][]byte) {
		t.Helper()
		got, err := w.sources[name].memory.Load(t.Context())
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s (-want +got):\n%s%v", name, diff, err)
		}
	}
	want("stays", map[string][]byte{"00": []byte("stays")})
	want("goes", map[string][]byte{"00": []byte("goes"), "01": []byte("x")})

	f.Handler, f.Triggers = []string{"two"}, f.Triggers[:1]
	deploy(t, n, f)
	want("stays", map[string][]byte{"00": []byte("stays")})
	want("goes", map[string][]byte{})
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	want("stays", map[string][]byte{})
}

// A session that another client takes away is warned of: trying again mends nothing.
func TestContestedSourceIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	w.handle("one", echo)
	f := function("fan", "one")
	f.Triggers = []functions.Trigger{{Name: "far", Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: "a", Broker: "plant"}}}
	n, _ := w.run(w.config())
	deploy(t, n, f)
	if s, err := n.Status(t.Context()); err != nil || len(s.Warnings) > 0 {
		t.Errorf("warnings %q, %v; want none", s.Warnings, err)
	}
	w.sources["far"].told.Store(&api.SourceInfo{State: "contested", Error: "another client uses the client id"})
	s, err := n.Status(t.Context())
	if diff := cmp.Diff([]string{`function "fan", trigger "far": another client uses the client id`}, s.Warnings); diff != "" || err != nil {
		t.Errorf("warnings (-want +got):\n%s%v", diff, err)
	}
}
