package examples

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/functionstest"
	"github.com/edgefn/edgefn/functions/manifest"
)

// message is an MQTT message that comes to a function, and what comes of it.
type message struct {
	topic, payload string
	result         string
	published      []string // TOPIC PAYLOAD
}

// TestDeployed deploys each example as it is and hands it messages.
func TestDeployed(t *testing.T) {
	h := functionstest.NewDirect(t)
	tests := map[string][]message{
		"thermostat": {
			{"greenhouse/north/temperature", `{"celsius":20}`, "", []string{`greenhouse/north/fan {"fan":"off","average":20.0}`}},
			{"greenhouse/north/temperature", `{"celsius":40}`, "", []string{`greenhouse/north/fan {"fan":"on","average":30.0}`}},
			{"greenhouse/south/temperature", `{"celsius":10}`, "", []string{`greenhouse/south/fan {"fan":"off","average":10.0}`}},
		},
		"celsius": {
			{"greenhouse/north/fahrenheit", " 70\n", "", []string{"greenhouse/north/celsius 21.1"}},
		},
		"leak-alarm": {
			{"greenhouse/north/moisture", `{"percent":90}`, `{"zone":"north","leak":true}`, nil},
			{"greenhouse/north/moisture", `{"percent":95}`, "", nil},
			{"greenhouse/north/moisture", `{"percent":20}`, `{"zone":"north","leak":false}`, nil},
		},
		"tally": {
			{"door/front", "open", "front 1\n", nil},
			{"door/front", "closed", "", nil},
			{"door/front", "open", "front 2\n", nil},
		},
	}
	for dir, messages := range tests {
		t.Run(dir, func(t *testing.T) {
			f, err := manifest.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if f.Name != dir {
				t.Errorf("function in %s is named %s", dir, f.Name)
			}
			fn, fail := h.Deploy(t, dir, f)
			if fail != nil {
				t.Fatalf("%v\n%s", fail, fail.Detail)
			}
			for _, m := range messages {
				if filter := f.Triggers[0].MQTT.Topic; !functions.TopicMatches(filter, m.topic) {
					t.Errorf("topic %s does not match the trigger's %s", m.topic, filter)
				}
				out := fn.Invoke(t, functions.Event{ID: "1", Type: functions.TypeMQTT, Source: "mqtt://local", Subject: m.topic, Data: []byte(m.payload)})
				if out.Failure != nil {
					t.Fatalf("%s %s: %v\n%s", m.topic, m.payload, out.Failure, out.Failure.Detail)
				}
				var published []string
				for _, p := range out.Published {
					published = append(published, p.Topic+" "+string(p.Data))
				}
				got := message{m.topic, m.payload, string(out.Result.Data), published}
				if diff := cmp.Diff(m, got, cmp.AllowUnexported(message{})); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
	t.Run("celsius refuses nonsense", func(t *testing.T) {
		f, err := manifest.Load("celsius")
		if err != nil {
			t.Fatal(err)
		}
		fn, fail := h.Deploy(t, "celsius", f)
		if fail != nil {
			t.Fatal(fail)
		}
		out := fn.Invoke(t, functions.Event{Subject: "greenhouse/north/fahrenheit", Data: []byte("warm")})
		if out.Failure == nil || out.Failure.Kind != functions.FailRaised {
			t.Errorf("outcome %+v, want a failure", out)
		}
	})
}
