package settle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/wire"
	"github.com/edgefn/edgefn/node/settle/outbox"
)

// place is what transactions of these tests have around them.
type place struct{ outbox.Sink }

func (place) HasBroker(name string) bool   { return name == "local" || name == "plant" }
func (place) HasFunction(name string) bool { return name == "other" }
func (place) IsOutput(line string) bool    { return line == "relay" }

func (place) ReadLine(_ context.Context, line string) (bool, error) { return line == "door", nil }

func (place) ReadSensor(_ context.Context, sensor string) ([]byte, error) {
	if sensor != "greenhouse" {
		return nil, errors.New("nothing answers")
	}
	return []byte(`{"temperature_C":25}`), nil
}

func testFunction() *functions.Function {
	f := functions.Defaults()
	f.Name = "fan"
	f.Grants = functions.Grants{Publish: []string{"alarm/#"}, State: []string{"weather/now", "all"}, Invoke: []string{"other", "gone"}}
	f.Grants.Lines = []functions.LineGrant{{Line: "relay"}, {Line: "door"}, {Line: "window"}}
	f.Grants.Sensors = []string{"greenhouse", "unplugged"}
	return &f
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestTransactionRefusals(t *testing.T) {
	long := strings.Repeat("k", functions.MaxKey+1)
	tests := []struct {
		name string
		kind wire.Kind
		call wire.Call
		want string
	}{
		{"empty key", wire.KindGet, wire.Call{}, "key is empty"},
		{"long key", wire.KindPut, wire.Call{Key: long}, "has 513 bytes, at most 512"},
		{"key no text", wire.KindDelete, wire.Call{Key: "\xff"}, "not UTF-8"},
		{"long prefix", wire.KindList, wire.Call{Prefix: long}, "has 513 bytes"},
		{"other's state", wire.KindGet, wire.Call{Function: "secret", Key: "a"}, `not granted: add "secret" to grants.state`},
		{"beside the prefix", wire.KindPut, wire.Call{Function: "weather", Key: "later"}, "not granted"},
		{"list beside the prefix", wire.KindList, wire.Call{Function: "weather", Prefix: "n"}, "not granted"},
		{"large value", wire.KindPut, wire.Call{Key: "a", Value: make([]byte, functions.MaxValue+1)}, "524289 bytes, at most 524288"},
		{"topic with a wildcard", wire.KindPublish, wire.Call{Topic: "alarm/+"}, "wildcard"},
		{"topic not granted", wire.KindPublish, wire.Call{Topic: "fire"}, "add a topic filter that matches it to grants.publish"},
		{"no such broker", wire.KindPublish, wire.Call{Topic: "alarm/a", Broker: "x"}, `no broker "x"`},
		{"qos", wire.KindPublish, wire.Call{Topic: "alarm/a", QoS: 3}, "qos 3"},
		{"expired before it is sent", wire.KindPublish, wire.Call{Topic: "alarm/a", ExpiryS: -1}, "expiry is -1 s"},
		{"response topic with a wildcard", wire.KindPublish, wire.Call{Topic: "alarm/a", ResponseTopic: "a/#"}, "response topic"},
		{"large properties", wire.KindPublish, wire.Call{Topic: "alarm/a", Correlation: make([]byte, functions.MaxProperties+1)}, "32769 bytes, at most 32768"},
		{"large message", wire.KindPublish, wire.Call{Topic: "alarm/a", Data: make([]byte, 1001)}, "1001 bytes, at most 1000"},
		{"invoke not granted", wire.KindInvoke, wire.Call{Function: "any"}, "grants.invoke"},
		{"invoke of none", wire.KindInvoke, wire.Call{Function: "gone"}, "no such function"},
		{"large invoke", wire.KindInvoke, wire.Call{Function: "other", Data: make([]byte, 1001)}, "1001 bytes"},
		{"large attributes", wire.KindInvoke, wire.Call{Function: "other", Subject: strings.Repeat("s", wire.Overhead)}, "id, type and subject"},
		{"line not granted", wire.KindSetLine, wire.Call{Device: "lamp"}, "add it to grants.lines"},
		{"read of a line not granted", wire.KindReadLine, wire.Call{Device: "lamp"}, "add it to grants.lines"},
		{"input", wire.KindSetLine, wire.Call{Device: "door"}, "it is an input"},
		{"no pulse", wire.KindPulseLine, wire.Call{Device: "relay"}, "a pulse of 0 ms: 1 to 60000"},
		{"long pulse", wire.KindPulseLine, wire.Call{Device: "relay", MS: 60001}, "a pulse of 60001 ms"},
		{"sensor not granted", wire.KindReadSensor, wire.Call{Device: "attic"}, "add it to grants.sensors"},
		{"sensor that does not answer", wire.KindReadSensor, wire.Call{Device: "unplugged"}, "nothing answers"},
		{"no call", wire.KindHello, wire.Call{}, "nothing that a function can ask for"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tx := newTransaction(testFunction(), memstore.New(memstore.Config{}), place{}, 1000)
			_, err := tx.Call(t.Context(), tt.kind, tt.call)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if len(tx.writes)+len(tx.messages)+len(tx.invokes)+tx.effects > 0 || tx.fault != nil {
				t.Errorf("a refused call left something: %+v", tx)
			}
		})
	}
}

func TestTransactionLines(t *testing.T) {
	tx := newTransaction(testFunction(), memstore.New(memstore.Config{}), place{}, 1000)
	call := func(kind wire.Kind, c wire.Call) wire.Reply {
		t.Helper()
		r, err := tx.Call(t.Context(), kind, c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	read := func(line string, want bool) {
		t.Helper()
		if got := call(wire.KindReadLine, wire.Call{Device: line}).On; got != want {
			t.Errorf("line %s: got %v, want %v", line, got, want)
		}
	}
	read("door", true)
	read("window", false)
	// What it commands takes place later, but it sees it at once.
	call(wire.KindSetLine, wire.Call{Device: "relay", On: true})
	read("relay", true)
	call(wire.KindPulseLine, wire.Call{Device: "relay", MS: 200})
	read("relay", false)
	call(wire.KindReleaseLine, wire.Call{Device: "relay"})
	read("relay", false)
	want := []functions.Effect{
		functions.SetLine{Line: "relay", On: true}, functions.PulseLine{Line: "relay", For: 200 * time.Millisecond}, functions.ReleaseLine{Line: "relay"},
	}
	if diff := cmp.Diff(want, tx.commands); diff != "" || !tx.pulses {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if got := string(call(wire.KindReadSensor, wire.Call{Device: "greenhouse"}).Value); got != `{"temperature_C":25}` {
		t.Errorf("sensor: %s", got)
	}
}

func TestTransactionBounds(t *testing.T) {
	call := func(t *testing.T, tx *transaction, kind wire.Kind, c wire.Call) error {
		t.Helper()
		_, err := tx.Call(t.Context(), kind, c)
		return err
	}
	t.Run("effects", func(t *testing.T) {
		tx := newTransaction(testFunction(), memstore.New(memstore.Config{}), place{}, 1000)
		for i := range functions.MaxEffects {
			if err := call(t, tx, wire.KindPublish, wire.Call{Topic: "alarm/a"}); err != nil {
				t.Fatalf("effect %d: %v", i, err)
			}
		}
		if err := call(t, tx, wire.KindPut, wire.Call{Key: "a"}); err == nil {
			t.Error("one effect too many is taken")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		tx := newTransaction(testFunction(), memstore.New(memstore.Config{}), place{}, 1000)
		value := make([]byte, functions.MaxValue)
		for i := range 3 {
			if err := call(t, tx, wire.KindPut, wire.Call{Key: fmt.Sprint(i), Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		// Writing a key again takes no more.
		if err := call(t, tx, wire.KindPut, wire.Call{Key: "0", Value: value}); err != nil {
			t.Error(err)
		}
		if err := call(t, tx, wire.KindPut, wire.Call{Key: "3", Value: value}); err == nil {
			t.Error("too many bytes are taken")
		}
	})
	t.Run("keys listed", func(t *testing.T) {
		st := memstore.New(memstore.Config{})
		for i := 0; i <= maxListed; i += 512 {
			var ops []store.Op
			for k := i; k < i+512; k++ {
				ops = append(ops, store.Op{Key: fmt.Sprintf("%sfan/%04d", statePrefix, k)})
			}
			if _, err := st.Commit(t.Context(), nil, ops); err != nil {
				t.Fatal(err)
			}
		}
		tx := newTransaction(testFunction(), st, place{}, 1000)
		if err := call(t, tx, wire.KindList, wire.Call{}); err == nil || !strings.Contains(err.Error(), "longer prefix") {
			t.Errorf("got %v", err)
		}
		if err := call(t, tx, wire.KindList, wire.Call{Prefix: "1"}); err != nil {
			t.Error(err)
		}
	})
}

// TestTransactionReadsItsWrites holds get and list against a map.
func TestTransactionReadsItsWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		st := memstore.New(memstore.Config{})
		keys := []string{"a", "a/b", "a/c", "b", "ü"}
		model := map[string]string{}
		for _, k := range rapid.SliceOfDistinct(rapid.SampledFrom(keys), rapid.ID).Draw(t, "before") {
			model[k] = "old " + k
			if _, err := st.Commit(ctx, nil, []store.Op{{Key: statePrefix + "fan/" + k, Value: []byte(model[k])}}); err != nil {
				t.Fatal(err)
			}
		}
		tx := newTransaction(testFunction(), st, place{}, 1000)
		if rapid.Bool().Draw(t, "read first") {
			if _, err := tx.Call(ctx, wire.KindGet, wire.Call{Key: "a"}); err != nil {
				t.Fatal(err)
			}
			// What others do from here on is not seen.
			if _, err := st.Commit(ctx, nil, []store.Op{{Key: statePrefix + "fan/new", Value: []byte("x")}, {Key: statePrefix + "fan/b", Value: []byte("x")}}); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				k, v := rapid.SampledFrom(keys).Draw(t, "key"), rapid.String().Draw(t, "value")
				if _, err := tx.Call(ctx, wire.KindPut, wire.Call{Key: k, Value: []byte(v)}); err != nil {
					t.Fatal(err)
				}
				model[k] = v
			},
			"delete": func(t *rapid.T) {
				k := rapid.SampledFrom(keys).Draw(t, "key")
				if _, err := tx.Call(ctx, wire.KindDelete, wire.Call{Key: k}); err != nil {
					t.Fatal(err)
				}
				delete(model, k)
			},
			"get": func(t *rapid.T) {
				k := rapid.SampledFrom(keys).Draw(t, "key")
				r, err := tx.Call(ctx, wire.KindGet, wire.Call{Key: k})
				v, ok := model[k]
				if err != nil || r.Found != ok || string(r.Value) != v {
					t.Fatalf("get %q: %+v, %v; want %q, %v", k, r, err, v, ok)
				}
			},
			"list": func(t *rapid.T) {
				p := rapid.SampledFrom([]string{"", "a", "a/", "z"}).Draw(t, "prefix")
				r, err := tx.Call(ctx, wire.KindList, wire.Call{Prefix: p})
				want := slices.DeleteFunc(slices.Sorted(maps.Keys(model)), func(k string) bool { return !strings.HasPrefix(k, p) })
				if err != nil || !slices.Equal(r.Keys, want) {
					t.Fatalf("list %q: %q, %v; want %q", p, r.Keys, err, want)
				}
			},
		})
		// What it wrote is what the store then has.
		if _, err := st.Commit(ctx, nil, tx.stateOps()); err != nil {
			t.Fatal(err)
		}
		for k := range tx.writes {
			e, _, err := st.Get(ctx, k, store.Read{})
			v, ok := model[strings.TrimPrefix(k, statePrefix+"fan/")]
			if err != nil || (e.Version != 0) != ok || string(e.Value) != v {
				t.Fatalf("committed %q: %+v, %v", k, e, err)
			}
		}
	})
}

// TestGuards: whatever an invocation has read must not change before it commits.
func TestGuards(t *testing.T) {
	ctx := t.Context()
	read := map[string]wire.Call{"present": {Key: "a"}, "absent": {Key: "none"}, "listed": {Prefix: "l/"}, "empty list": {Prefix: "e/"}}
	change := map[string]store.Op{
		"present": {Key: statePrefix + "fan/a", Value: []byte("2")}, "absent": {Key: statePrefix + "fan/none"},
		"listed": {Key: statePrefix + "fan/l/1", Delete: true}, "empty list": {Key: statePrefix + "fan/e/1"},
		"something else": {Key: statePrefix + "fan/other"},
	}
	for name, c := range read {
		for changed, op := range change {
			t.Run(name+" while "+changed+" changes", func(t *testing.T) {
				st := memstore.New(memstore.Config{})
				if _, err := st.Commit(ctx, nil, []store.Op{{Key: statePrefix + "fan/a"}, {Key: statePrefix + "fan/l/1"}, {Key: statePrefix + "fan/l/2"}}); err != nil {
					t.Fatal(err)
				}
				tx := newTransaction(testFunction(), st, place{}, 1000)
				kind := wire.KindGet
				if c.Key == "" {
					kind = wire.KindList
				}
				if _, err := tx.Call(ctx, kind, c); err != nil {
					t.Fatal(err)
				}
				if _, err := tx.Call(ctx, wire.KindPut, wire.Call{Key: "written"}); err != nil {
					t.Fatal(err)
				}
				if _, err := st.Commit(ctx, nil, []store.Op{op}); err != nil {
					t.Fatal(err)
				}
				_, err := st.Commit(ctx, tx.guards(), tx.stateOps())
				if got, want := errors.Is(err, store.ErrConflict), name == changed; got != want {
					t.Errorf("conflict: got %v, want %v (%v)", got, want, err)
				}
			})
		}
	}
}
