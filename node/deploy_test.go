package node_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/triggers"
)

// answer is a handler that answers with a text.
func answer(text string) handler {
	return func(context.Context, pool.Invocation) (functions.Result, error) {
		return functions.Result{Data: []byte(text)}, nil
	}
}

func invoke(t *testing.T, n *node.Node, name string) string {
	t.Helper()
	out, err := n.Invoke(t.Context(), name, api.InvokeRequest{})
	if err != nil || out.Failure != nil {
		t.Fatalf("invoke %s: %+v, %v", name, out, err)
	}
	return string(out.Data)
}

func TestRedeployLosesNoEvent(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	handled := map[string]int{}
	by := map[string]int{}
	some, deployed := make(chan struct{}), make(chan struct{})
	for _, v := range []string{"one", "two"} {
		w.handle(v, func(_ context.Context, in pool.Invocation) (functions.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			handled[string(in.Event.Data)]++
			if by[v]++; v == "one" && by[v] == 50 {
				close(some)
			}
			return functions.Result{}, nil
		})
	}
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "one"))
	const events = 400
	var settled []<-chan error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range events {
			if i == events-10 {
				<-deployed // so that the new version has some, however fast the old one is
			}
			c := make(chan error, 1)
			settled = append(settled, c)
			_ = n.Deliver(context.Background(), triggers.Delivery{
				Function: "fan", Trigger: "in", Settle: func(err error) { c <- err },
				Event: functions.Event{Subject: "fan/" + strconv.Itoa(i%3), Data: []byte(strconv.Itoa(i))},
			})
		}
	}()
	<-some
	if out := deploy(t, n, function("fan", "two")); out.Unchanged {
		t.Error("a new version is said to be unchanged")
	}
	close(deployed)
	<-done
	wantSettled(t, send(t, n, "fan", "fan/x", "", "last"))
	for _, c := range settled {
		wantSettled(t, c)
	}
	if len(handled) != events+1 {
		t.Errorf("%d events were handled, want %d", len(handled), events+1)
	}
	for e, n := range handled {
		if n != 1 {
			t.Errorf("event %s was handled %d times", e, n)
		}
	}
	if by["one"] == 0 || by["two"] == 0 {
		t.Errorf("handled by: %v, want both", by)
	}
	if len(w.pools) != 2 || !w.pools[0].ended {
		t.Error("the old version's pool did not end")
	}
}

func TestDeployOfTheSameChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.handle("echo", echo)
	n, _ := w.run(w.config())
	first := deploy(t, n, function("fan", "echo"))
	second := deploy(t, n, function("fan", "echo"))
	if !second.Unchanged || second.Version != first.Version || len(w.pools) != 1 || !slices.Equal(second.Nodes, []string{"gate"}) {
		t.Errorf("second deploy: %+v, %d pools", second, len(w.pools))
	}
	missing, err := n.Missing(t.Context(), first.Version, []string{first.Version, "sha256:none"})
	if err != nil || !slices.Equal(missing, []string{"sha256:none"}) {
		t.Errorf("missing after the deploy: %v %v", missing, err)
	}
}

func TestRefusedDeployLeavesTheOldVersion(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "one"))
	tests := []struct {
		name  string
		edit  func(f *functions.Function)
		is    error
		texts []string
	}{
		{"does not load", func(f *functions.Function) { f.Handler[0] = "none" }, api.ErrRefused, []string{`function "fan" does not start: no such handler`, "Traceback: its own words"}},
		{"invalid", func(f *functions.Function) { f.Memory = 1 }, api.ErrInvalid, []string{"memory"}},
		{"no such runtime", func(f *functions.Function) { f.Runtime, f.Handler = functions.Node, []string{"main:handle"} }, api.ErrRefused, []string{"this node has no node"}},
		{"other version of it", func(f *functions.Function) {
			f.Runtime, f.Handler, f.RuntimeVersion = functions.Python, []string{"main:handle"}, ">=3.12"
		}, api.ErrRefused, []string{"python 3.11.2 is here"}},
		{"no such broker, no such secret", func(f *functions.Function) {
			f.Triggers[0].MQTT.Broker, f.Secrets = "other", []string{"key"}
		}, api.ErrRefused, []string{`no broker "other"`, `secret "key"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := function("fan", "one")
			tt.edit(&f)
			_, err := n.Deploy(t.Context(), image(t, f), api.DeployOptions{}, func(api.Progress) {})
			wantError(t, err, tt.is, tt.texts...)
			if got := invoke(t, n, "fan"); got != "one" {
				t.Errorf("it answers %q", got)
			}
			if len(w.images) != 1 {
				t.Errorf("%d images are kept, want 1", len(w.images))
			}
		})
	}
	_, err := n.Deploy(t.Context(), strings.NewReader(`{"name": "fan", "colour": "red"}`), api.DeployOptions{}, func(api.Progress) {})
	wantError(t, err, api.ErrInvalid, "colour")
	// The store not taking it is a refusal too.
	w.st.set(func([]store.Guard, []store.Op) error { return store.ErrFull }, nil)
	f := function("fan", "one")
	f.Timeout++
	_, err = n.Deploy(t.Context(), image(t, f), api.DeployOptions{}, func(api.Progress) {})
	wantError(t, err, api.ErrFull)
	w.st.set(nil, nil)
	if got := invoke(t, n, "fan"); got != "one" {
		t.Errorf("it answers %q", got)
	}
}

func TestRollbackAndVersionsKept(t *testing.T) {
	w := newWorld(t)
	n, stop := w.run(w.config())
	var versions []string
	for i := range 7 {
		v := strconv.Itoa(i)
		w.handle(v, answer(v))
		versions = append(versions, deploy(t, n, function("fan", v)).Version)
	}
	d, err := n.Describe(t.Context(), "fan")
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, v := range d.Versions {
		kept = append(kept, v.Version)
	}
	want := slices.Clone(versions[2:])
	slices.Reverse(want)
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	if len(w.images) != 5 {
		t.Errorf("%d images are kept, want 5", len(w.images))
	}
	back := func(to, answer string) {
		t.Helper()
		if _, err := n.Rollback(t.Context(), "fan", to, func(api.Progress) {}); err != nil {
			t.Fatal(err)
		}
		if got := invoke(t, n, "fan"); got != answer {
			t.Errorf("after the rollback it answers %q, want %q", got, answer)
		}
	}
	back("", "5")
	back("", "4")
	back(versions[6][7:19], "6")
	back(versions[2], "2")
	_, err = n.Rollback(t.Context(), "fan", "", func(api.Progress) {})
	wantError(t, err, api.ErrRefused, "no version before")
	_, err = n.Rollback(t.Context(), "fan", versions[0], func(api.Progress) {})
	wantError(t, err, api.ErrNotFound, "no version")
	_, err = n.Rollback(t.Context(), "fan", "sha", func(api.Progress) {})
	wantError(t, err, api.ErrInvalid, "5 versions")
	_, err = n.Rollback(t.Context(), "none", "", func(api.Progress) {})
	wantError(t, err, api.ErrNotFound)
	// What is active survives a restart.
	stop()
	n, _ = w.run(w.config())
	eventually(t, "function serves", func() bool { fs, _ := n.Functions(t.Context()); return fs[0].State == "serving" })
	if got := invoke(t, n, "fan"); got != "2" {
		t.Errorf("after a restart it answers %q", got)
	}
}

func TestRemoveTakesEverything(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, stop := w.run(w.config())
	f := function("fan", "count")
	f.Triggers = append(f.Triggers, functions.Trigger{Name: "far", Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: "x", Broker: "plant"}})
	deploy(t, n, f)
	deploy(t, n, function("fan2", "count"))
	wantSettled(t, send(t, n, "fan", "fan/a", "1", ""))
	wantSettled(t, send(t, n, "fan2", "fan2/a", "1", ""))
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("second removal: %v", err)
	}
	for _, p := range []string{"functions/", "versions/", "state/", "done/", "usage/"} {
		es, _, err := w.st.List(t.Context(), "/edgefn/"+p+"fan/", store.Read{})
		if err != nil || len(es) > 0 {
			t.Errorf("left: %v, %v", es, err)
		}
	}
	if diff := cmp.Diff([]string{"gate-fan-far"}, w.ended); diff != "" {
		t.Errorf("sessions ended (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"fan2 fan2/#"}, w.local.bound()); diff != "" {
		t.Errorf("bound (-want +got):\n%s", diff)
	}
	if err := n.Deliver(t.Context(), triggers.Delivery{Function: "fan", Trigger: "in"}); err == nil {
		t.Error("a removed function takes events")
	}
	if _, err := os.Stat(filepath.Join(w.dir, "data", "logs", "fan.log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("log: %v", err)
	}
	if got := stateOf(t, n, "fan2", "n"); got != "1" || len(w.images) != 1 {
		t.Errorf("the other function: n is %s, %d images", got, len(w.images))
	}
	stop()
	if n, _ = w.run(w.config()); len(mustFunctions(t, n)) != 1 {
		t.Error("the removed function is back")
	}
}

func mustFunctions(t *testing.T, n *node.Node) []api.FunctionInfo {
	t.Helper()
	fs, err := n.Functions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestRemovalIsFinished: the store fails half-way, the next start goes on.
func TestRemovalIsFinished(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, stop := w.run(w.config())
	deploy(t, n, function("fan", "count"))
	invoke(t, n, "fan")
	w.st.set(func(_ []store.Guard, ops []store.Op) error {
		if slices.ContainsFunc(ops, func(o store.Op) bool { return o.Prefix }) {
			return errors.New("disk is gone")
		}
		return nil
	}, nil)
	wantError(t, n.Remove(t.Context(), "fan", api.RemoveOptions{}), nil, "goes at the next start")
	w.st.set(nil, nil)
	stop()
	n, _ = w.run(w.config())
	if es, _, err := w.st.List(t.Context(), "/edgefn/state/", store.Read{}); err != nil || len(es) > 0 || len(mustFunctions(t, n)) > 0 {
		t.Errorf("left: %v, %v", es, err)
	}
}

// TestSourcesFollowTheManifest: a trigger that stays keeps its source, one that
// goes has its session ended, also where the broker is away.
func TestSourcesFollowTheManifest(t *testing.T) {
	w := newWorld(t)
	w.handle("one", echo)
	w.handle("two", echo)
	n, stop := w.run(w.config())
	far := func(name, topic string, qos byte) functions.Trigger {
		return functions.Trigger{Name: name, Order: functions.OrderNone, MQTT: &functions.MQTTTrigger{Topic: topic, QoS: qos, Broker: "plant"}}
	}
	f := function("fan", "one")
	f.Triggers = []functions.Trigger{far("stays", "a", 1), far("qos", "b", 0), far("topic", "c", 1), far("goes", "d", 1)}
	deploy(t, n, f)
	eventually(t, "four sources run", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.made) == 4 })
	old := map[string]*fakeSource{}
	for name, s := range w.sources {
		<-s.running
		old[name] = s
	}
	w.away = true
	f.Handler = []string{"two"}
	f.Triggers = []functions.Trigger{far("stays", "a", 1), far("qos", "b", 1), far("topic", "C", 1)}
	f.Triggers[0].Order = functions.OrderSubject // which is not the source's business
	out := deploy(t, n, f)
	if len(out.Warnings) != 2 || !strings.Contains(strings.Join(out.Warnings, "\n"), `trigger "goes": the session at broker "plant" cannot be ended now`) {
		t.Errorf("warnings: %q", out.Warnings)
	}
	if diff := cmp.Diff([]string{"goes d", "qos b", "stays a", "topic c", "qos b", "topic C"}, w.made); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	for _, name := range []string{"qos", "topic", "goes"} {
		<-old[name].ended
	}
	select {
	case <-old["stays"].ended:
		t.Error("the source of an unchanged trigger was ended")
	default:
	}
	// The session that could not be ended is, once the broker is back; but not
	// the one that is in use again.
	stop()
	w.away = false
	n, _ = w.run(w.config())
	eventually(t, "the session is ended", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.ended) > 0 })
	if diff := cmp.Diff([]string{"gate-fan-goes"}, w.ended); diff != "" {
		t.Errorf("sessions ended (-want +got):\n%s", diff)
	}
	d, err := n.Describe(t.Context(), "fan")
	if err != nil || len(d.Sources) != 3 || d.Sources[0] != (api.SourceInfo{Trigger: "stays", State: "connected"}) {
		t.Errorf("sources: %+v, %v", d.Sources, err)
	}
}

// TestFunctionThatDoesNotStartWaits: at the start of a node a function fails,
// with its reason; its events wait and others serve.
func TestFunctionThatDoesNotStartWaits(t *testing.T) {
	w := newWorld(t)
	w.handle("one", echo)
	w.handle("two", echo)
	n, stop := w.run(w.config())
	lost := deploy(t, n, function("lost", "one"))
	deploy(t, n, function("broken", "two"))
	deploy(t, n, function("fine", "one"))
	stop()
	delete(w.images, lost.Version)
	delete(w.handlers, "two")
	n, _ = w.run(w.config())
	eventually(t, "two fail", func() bool {
		fs := mustFunctions(t, n)
		return fs[0].State == "failing" && strings.Contains(fs[0].Error, "no such handler") &&
			fs[2].State == "failing" && strings.Contains(fs[2].Error, "is not there: deploy it again")
	})
	wantSettled(t, send(t, n, "fine", "fine/a", "", ""))
	waits := send(t, n, "broken", "broken/a", "", "")
	_, err := n.Invoke(t.Context(), "broken", api.InvokeRequest{})
	wantError(t, err, api.ErrRefused, "does not start: no such handler")
	select {
	case err := <-waits:
		t.Fatalf("settled with %v", err)
	default:
	}
	w.handle("two", echo) // such as a runtime that was installed
	wantSettled(t, waits)
	deploy(t, n, function("lost", "one"))
	wantSettled(t, send(t, n, "lost", "lost/a", "", ""))
}

func TestStartFaults(t *testing.T) {
	w := newWorld(t)
	t.Run("port in use", func(t *testing.T) {
		parts := w.parts()
		parts.Broker = func(*node.Config, triggers.Sink) (node.LocalBroker, error) {
			return &fakeBroker{err: syscall.EADDRINUSE}, nil
		}
		n, err := node.Assemble(w.config(), parts)
		if err != nil {
			t.Fatal(err)
		}
		err = n.Run(t.Context())
		wantError(t, err, syscall.EADDRINUSE, "127.0.0.1:1883 is in use")
		if !strings.Contains(api.Hint(err), "--mqtt") {
			t.Errorf("hint: %q", api.Hint(err))
		}
	})
	t.Run("data folder in use", func(t *testing.T) {
		w.run(w.config())
		cfg := w.config()
		cfg.RunDir += "2"
		n, err := node.Assemble(cfg, w.parts())
		if err != nil {
			t.Fatal(err)
		}
		err = n.Run(t.Context())
		wantError(t, err, nil, "another node uses the data folder")
		if !strings.Contains(api.Hint(err), "--data") {
			t.Errorf("hint: %q", api.Hint(err))
		}
	})
	t.Run("folder that may not be made", func(t *testing.T) {
		cfg := w.config()
		cfg.RunDir = "/sys/edgefn" // which nobody can make, not even root
		cfg.DataDir += "2"
		n, err := node.Assemble(cfg, w.parts())
		if err != nil {
			t.Fatal(err)
		}
		err = n.Run(t.Context())
		wantError(t, err, nil, "make folder: mkdir /sys/edgefn")
		if !strings.Contains(api.Hint(err), "as root") {
			t.Errorf("hint: %q", api.Hint(err))
		}
	})
	t.Run("no containerd", func(t *testing.T) {
		w := newWorld(t)
		parts := w.parts()
		parts.Sandboxes = func(context.Context, *node.Config) (node.Sandboxes, error) { return nil, errors.New("none here") }
		n, err := node.Assemble(w.config(), parts)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, n.Run(t.Context()), nil, "open sandboxes: none here")
	})
	t.Run("config", func(t *testing.T) {
		cfg := w.config()
		cfg.Name, cfg.Log.Files = "", 0
		_, err := node.Assemble(cfg, w.parts())
		wantError(t, err, nil, "name: ", "log.files: ")
	})
}

func TestBackendReads(t *testing.T) {
	w := newWorld(t)
	w.handle("count", count)
	n, stop := w.run(w.config())
	deploy(t, n, function("fan", "count"))
	for _, k := range []string{"b/2", "a", "b/1"} {
		if err := n.StatePut(t.Context(), "fan", k, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := n.StateList(t.Context(), "fan", "b/", "b/1", 10)
	if diff := cmp.Diff([]api.StateKey{{Key: "b/2", Bytes: 3}}, keys); diff != "" || err != nil {
		t.Errorf("keys (-want +got):\n%s%v", diff, err)
	}
	if err := n.StateDelete(t.Context(), "fan", "a"); err != nil {
		t.Error(err)
	}
	wantError(t, n.StateDelete(t.Context(), "fan", "a"), api.ErrNotFound)
	wantError(t, n.StatePut(t.Context(), "fan", "", nil), api.ErrInvalid)
	wantError(t, n.StatePut(t.Context(), "fan", "\xff", nil), api.ErrInvalid)
	wantError(t, n.StatePut(t.Context(), "none", "a", nil), api.ErrNotFound)
	wantError(t, n.StatePut(t.Context(), "fan", "a", make([]byte, functions.MaxValue+1)), api.ErrInvalid)

	w.handle("count", func(context.Context, pool.Invocation) (functions.Result, error) {
		return functions.Result{}, functions.Failf(functions.FailRaised, "no")
	})
	if out, err := n.Invoke(t.Context(), "fan", api.InvokeRequest{}); err != nil || out.Failure == nil || out.Failure.Message != "no" || out.WallMS != 2 {
		t.Errorf("invoke: %+v, %v", out, err)
	}
	w.handle("count", count)
	invoke(t, n, "fan")
	check := func() {
		t.Helper()
		u, err := n.Usage(t.Context(), "")
		if err != nil || len(u) != 1 || u[0].Invocations != 2 || u[0].Failures != 1 || u[0].WallMS != 4 || u[0].CPUMS != 2 || u[0].MemoryMiBMS != 4 || u[0].Warm != 2 {
			t.Errorf("usage: %+v, %v", u, err)
		}
	}
	check()
	s, err := n.Status(t.Context())
	if s.Platform != "linux/arm/v7" {
		t.Errorf("the node is of platform %s, its sandboxes run linux/arm/v7", s.Platform)
	}
	if err != nil || !s.Ready || s.Functions != 1 || s.Store.State != "up" || s.Broker.State != "up" || s.Brokers["plant"].State != "up" || s.Runtimes["python"] != "3.11.2" {
		t.Errorf("status: %+v, %v", s, err)
	}
	stop()
	n, _ = w.run(w.config())
	check()
}

func TestControlSocketServes(t *testing.T) {
	w := newWorld(t)
	w.handle("echo", answer("hello"))
	cfg := w.config()
	n, _ := w.run(cfg)
	deploy(t, n, function("fan", "echo"))
	c, err := api.Dial("unix://" + cfg.Socket())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := c.Invoke(ctx, "fan", api.InvokeRequest{})
	if err != nil || string(out.Data) != "hello" {
		t.Errorf("invoke: %+v, %v", out, err)
	}
}
