package examples

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/functionstest"
	"github.com/edgefn/edgefn/functions/manifest"
)

// step is an event that comes to a function, and what comes of it.
type step struct {
	typ, subject, data string
	result             string
	published          []string // TOPIC PAYLOAD
	commanded          []functions.Effect
}

// message is a step by an MQTT message.
func message(topic, payload, result string, published ...string) step {
	return step{typ: functions.TypeMQTT, subject: topic, data: payload, result: result, published: published}
}

// TestDeployed deploys each example as it is and hands it events.
func TestDeployed(t *testing.T) {
	h := functionstest.NewDirect(t)
	tests := map[string][]step{
		"thermostat": {
			message("greenhouse/north/temperature", `{"celsius":20}`, "", `greenhouse/north/fan {"fan":"off","average":20.0}`),
			message("greenhouse/north/temperature", `{"celsius":40}`, "", `greenhouse/north/fan {"fan":"on","average":30.0}`),
			message("greenhouse/south/temperature", `{"celsius":10}`, "", `greenhouse/south/fan {"fan":"off","average":10.0}`),
		},
		"celsius": {
			message("greenhouse/north/fahrenheit", " 70\n", "", "greenhouse/north/celsius 21.1"),
		},
		"leak-alarm": {
			message("greenhouse/north/moisture", `{"percent":90}`, `{"zone":"north","leak":true}`),
			message("greenhouse/north/moisture", `{"percent":95}`, ""),
			message("greenhouse/north/moisture", `{"percent":20}`, `{"zone":"north","leak":false}`),
		},
		"tally": {
			message("door/front", "open", "front 1\n"),
			message("door/front", "closed", ""),
			message("door/front", "open", "front 2\n"),
		},
		"doorbell": {
			{
				typ: functions.TypeEdge, subject: "door", data: `{"on":true,"level":0,"edge":"rising","line_seq":1,"lost":0,"coalesced":0,"time_ns":1}`,
				commanded: []functions.Effect{functions.PulseLine{Line: "relay", For: 500 * time.Millisecond}},
			},
		},
		"climate": {
			{
				typ: functions.TypeReading, subject: "greenhouse", data: `{"temperature_C":25.08,"humidity_rH":41.2,"pressure_Pa":98012}`,
				published: []string{`greenhouse/climate {"temperature_C":25.08,"humidity_rH":41.2}`},
			},
			{
				typ: functions.TypeFault, subject: "greenhouse", data: `{"error":"no answer at 0x76","since":"2026-02-03T04:05:06Z"}`,
				published: []string{"alarms/greenhouse no answer at 0x76"},
			},
			{
				typ: functions.TypeRecovered, subject: "greenhouse", data: `{"temperature_C":24,"humidity_rH":40,"since":"2026-02-03T04:05:06Z","missed":3}`,
				published: []string{"alarms/greenhouse ", `greenhouse/climate {"temperature_C":24,"humidity_rH":40}`},
			},
		},
	}
	for dir, steps := range tests {
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
			for _, s := range steps {
				if !starts(&f.Triggers[0], s) {
					t.Errorf("the trigger %+v does not give events of %s", f.Triggers[0], s.subject)
				}
				out := fn.Invoke(t, functions.Event{ID: "1", Type: s.typ, Source: "test://examples", Subject: s.subject, Data: []byte(s.data)})
				if out.Failure != nil {
					t.Fatalf("%s %s: %v\n%s", s.subject, s.data, out.Failure, out.Failure.Detail)
				}
				got := step{typ: s.typ, subject: s.subject, data: s.data, result: string(out.Result.Data), commanded: out.Commanded}
				for _, p := range out.Published {
					got.published = append(got.published, p.Topic+" "+string(p.Data))
				}
				if diff := cmp.Diff(s, got, cmp.AllowUnexported(step{})); diff != "" {
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

// starts reports whether a trigger is one that gives the event of a step.
func starts(tr *functions.Trigger, s step) bool {
	switch tr.Kind() {
	case "mqtt":
		return s.typ == functions.TypeMQTT && functions.TopicMatches(tr.MQTT.Topic, s.subject)
	case "gpio":
		return s.typ == functions.TypeEdge && tr.GPIO.Line == s.subject
	case "sensor":
		event := functions.SensorEvent(strings.TrimPrefix(s.typ, "edgefn.sensor."))
		return tr.Sensor.Device == s.subject && slices.Contains(tr.Sensor.Events, event)
	}
	return false
}
