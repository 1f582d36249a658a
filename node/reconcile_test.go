package node_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// imageOf is the image of a function as another node would have made it.
func imageOf(t *testing.T, f functions.Function) (digest string, text []byte) {
	t.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), text
}

// bring has the image of a function be on the node.
func (w *world) bring(f functions.Function) (digest string) {
	digest, text := imageOf(w.t, f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images[digest] = text
	return digest
}

// otherWriter writes into the store what another node would.
type otherWriter struct {
	t  *testing.T
	st store.Store
}

func (o otherWriter) put(pairs ...any) {
	o.t.Helper()
	var ops []store.Op
	for i := 0; i < len(pairs); i += 2 {
		text, err := json.Marshal(pairs[i+1])
		if err != nil {
			o.t.Fatal(err)
		}
		ops = append(ops, store.Op{Key: pairs[i].(string), Value: text})
	}
	if _, err := o.st.Commit(context.Background(), nil, ops); err != nil {
		o.t.Fatal(err)
	}
}

// record is a function's record in the store.
func record(version string, more ...any) (key string, r map[string]any) {
	r = map[string]any{"version": version, "deployed": time.Unix(0, 0)}
	for i := 0; i < len(more); i += 2 {
		r[more[i].(string)] = more[i+1]
	}
	return "/edgefn/functions/fan", r
}

// deploys writes a version as a deploy does; its time is the clock's of another
// machine, which says nothing.
func (o otherWriter) deploys(f functions.Function, clock time.Time) (digest string) {
	o.t.Helper()
	digest, _ = imageOf(o.t, f)
	key, r := record(digest)
	o.put(key, r, "/edgefn/versions/"+f.Name+"/"+digest, map[string]any{"version": digest, "deployed": clock, "function": f})
	return digest
}

func (o otherWriter) activates(digest string, more ...any) {
	o.t.Helper()
	key, r := record(digest, more...)
	o.put(key, r)
}

// answers waits until a function answers with a text.
func answers(t *testing.T, n *node.Node, name, want string) {
	t.Helper()
	eventually(t, name+" answers "+want, func() bool {
		out, err := n.Invoke(t.Context(), name, api.InvokeRequest{})
		return err == nil && out.Failure == nil && string(out.Data) == want
	})
}

// What another node deploys, rolls back and removes takes place here without a
// restart.
func TestRecordsOfAnotherWriterAreServed(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"one", "two"} {
		w.handle(v, answer(v))
	}
	n, _ := w.run(w.config())
	other := otherWriter{t, w.st}
	clock := time.Date(2039, 1, 1, 0, 0, 0, 0, time.UTC)
	w.bring(function("fan", "one"))
	w.bring(function("fan", "two"))
	one := other.deploys(function("fan", "one"), clock)
	answers(t, n, "fan", "one")
	wantSettled(t, send(t, n, "fan", "fan/a", "", ""))
	if got := w.local.bound(); !slices.Equal(got, []string{"fan fan/#"}) {
		t.Errorf("bound: %v", got)
	}
	f := function("fan", "two")
	two := other.deploys(f, clock.AddDate(-20, 0, 0))
	answers(t, n, "fan", "two")
	d, err := n.Describe(t.Context(), "fan")
	if err != nil || len(d.Versions) != 2 || d.Versions[0].Version != two || d.Versions[1].Version != one {
		t.Errorf("versions: %+v, %v; want the one that was deployed last first", d.Versions, err)
	}
	other.activates(one)
	answers(t, n, "fan", "one")
	eventually(t, "what was replaced has ended", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		live := 0
		for _, p := range w.pools {
			p.mu.Lock()
			if !p.ended {
				live++
			}
			p.mu.Unlock()
		}
		return live == 1
	})
	// This node goes on from there.
	w.handle("three", answer("three"))
	deploy(t, n, function("fan", "three"))
	if _, err := n.Rollback(t.Context(), "fan", "", func(api.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if got := invoke(t, n, "fan"); got != "two" {
		t.Errorf("before three was %q, want two, which was deployed after one", got)
	}
	other.activates(two, "removing", true)
	eventually(t, "the function is gone", func() bool {
		left, err := w.st.left(t.Context(), "/edgefn/functions/", "/edgefn/versions/")
		return err == nil && left == 0 && len(mustFunctions(t, n)) == 0
	})
	w.mu.Lock()
	if len(w.images) != 0 || len(w.local.bound()) != 0 {
		t.Errorf("%d images and %v are left", len(w.images), w.local.bound())
	}
	w.mu.Unlock()
	if got := deploy(t, n, function("fan", "one")); got.Unchanged {
		t.Error("a function that was removed is said to be unchanged")
	}
}

// left counts what is under some prefixes.
func (s *flakyStore) left(ctx context.Context, prefixes ...string) (left int, err error) {
	for _, p := range prefixes {
		c, err := s.Count(ctx, p)
		if err != nil {
			return 0, err
		}
		left += c
	}
	return left, nil
}

// A version whose image is not here yet fails, with the reason, and serves when
// it comes; the one that served goes on until then.
func TestImageThatComesLater(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"one", "two"} {
		w.handle(v, answer(v))
	}
	n, _ := w.run(w.config())
	other := otherWriter{t, w.st}
	failing := func(texts ...string) {
		t.Helper()
		eventually(t, "it fails", func() bool {
			d, err := n.Describe(t.Context(), "fan")
			return err == nil && d.State == "failing" && !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(d.Error, s) })
		})
	}
	one := other.deploys(function("fan", "one"), time.Now())
	failing("the image of version " + one + ": its image is not there")
	waits := send(t, n, "fan", "fan/a", "", "")
	w.bring(function("fan", "one"))
	wantSettled(t, waits)
	two := other.deploys(function("fan", "two"), time.Now())
	failing(two, one+" goes on", "is not there")
	if got := invoke(t, n, "fan"); got != "one" {
		t.Errorf("it answers %q", got)
	}
	w.bring(function("fan", "two"))
	answers(t, n, "fan", "two")
	if d, err := n.Describe(t.Context(), "fan"); err != nil || d.Error != "" || d.State != "serving" {
		t.Errorf("got %+v, %v", d.FunctionInfo, err)
	}
}

// A version that does not start any more is given up as soon as another one is
// to serve.
func TestVersionThatReplacesOneThatDoesNotStart(t *testing.T) {
	w := newWorld(t)
	w.handle("two", answer("two"))
	n, _ := w.run(w.config())
	other := otherWriter{t, w.st}
	w.bring(function("fan", "lost"))
	w.bring(function("fan", "two"))
	other.deploys(function("fan", "lost"), time.Now())
	eventually(t, "it fails", func() bool {
		fs := mustFunctions(t, n)
		return len(fs) == 1 && fs[0].State == "failing" && strings.Contains(fs[0].Error, "no such handler")
	})
	other.deploys(function("fan", "two"), time.Now())
	answers(t, n, "fan", "two")
}

// A function that does not start is removed at once, not when it would have been
// tried again.
func TestRemovalOfAFunctionThatDoesNotStart(t *testing.T) {
	w := newWorld(t)
	n, _ := w.run(w.config())
	w.bring(function("fan", "lost"))
	otherWriter{t, w.st}.deploys(function("fan", "lost"), time.Now())
	eventually(t, "it has failed three times", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.pools) == 3 // and is tried again in two seconds or more
	})
	eventually(t, "it fails", func() bool { fs := mustFunctions(t, n); return len(fs) == 1 && fs[0].State == "failing" })
	start := time.Now()
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// Of two who deploy one function at the same time the later one is told, and
// changes nothing.
func TestDeployMeetsAnotherWriter(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"one", "theirs", "mine"} {
		w.handle(v, answer(v))
	}
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "one"))
	other := otherWriter{t, w.st.Store}
	w.bring(function("fan", "theirs"))
	var theirs string
	_, err := n.Deploy(t.Context(), image(t, function("fan", "mine")), api.DeployOptions{}, func(p api.Progress) {
		if p.Step == "activate" {
			theirs = other.deploys(function("fan", "theirs"), time.Now())
		}
	})
	wantError(t, err, api.ErrRefused, "someone else deployed version "+theirs+` of function "fan" while this one was checked`)
	answers(t, n, "fan", "theirs")
	mine, _ := imageOf(t, function("fan", "mine"))
	w.mu.Lock()
	_, left := w.images[mine]
	w.mu.Unlock()
	if left {
		t.Error("the image of the version that was refused is left")
	}
	// The same for a function that is new to both.
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	w.bring(function("fan", "theirs"))
	_, err = n.Deploy(t.Context(), image(t, function("fan", "mine")), api.DeployOptions{}, func(p api.Progress) {
		if p.Step == "activate" {
			other.deploys(function("fan", "theirs"), time.Now())
		}
	})
	wantError(t, err, api.ErrRefused, "someone else deployed")
	answers(t, n, "fan", "theirs")
	// Who deploys the same is not told anything.
	_, err = n.Deploy(t.Context(), image(t, function("fan", "mine")), api.DeployOptions{}, func(p api.Progress) {
		if p.Step == "activate" {
			other.deploys(function("fan", "mine"), time.Now())
		}
	})
	if err != nil {
		t.Error(err)
	}
	answers(t, n, "fan", "mine")
}

// A deploy whose answer from the store is lost has taken place.
func TestDeployWhoseAnswerIsLost(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	n, _ := w.run(w.config())
	w.st.set(nil, func(ops []store.Op) error {
		if slices.ContainsFunc(ops, func(o store.Op) bool { return o.Key == "/edgefn/functions/fan" }) {
			return errors.New("the answer was lost")
		}
		return nil
	})
	deploy(t, n, function("fan", "one"))
	if got := invoke(t, n, "fan"); got != "one" {
		t.Errorf("it answers %q", got)
	}
	if err := n.Remove(t.Context(), "fan", api.RemoveOptions{}); err != nil {
		t.Error(err)
	}
	if len(mustFunctions(t, n)) != 0 || len(w.pools) != 1 {
		t.Errorf("%d pools were made, want one", len(w.pools))
	}
}

// A deploy starts one instance, and the pool that it has checked serves.
func TestDeployStartsAVersionOnce(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	w.handle("two", answer("two"))
	n, _ := w.run(w.config())
	deploy(t, n, function("fan", "one"))
	deploy(t, n, function("fan", "two"))
	if _, err := n.Rollback(t.Context(), "fan", "", func(api.Progress) {}); err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, p := range w.pools {
		made = append(made, p.cfg.Function.Handler[0])
	}
	if diff := cmp.Diff([]string{"one", "two", "one"}, made); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
}

// blindStore is a store whose watches break without having told anything.
type blindStore struct {
	*flakyStore
	blind chan struct{} // closed when they may see again
	err   error
}

func (s blindStore) Watch(ctx context.Context, prefix string, revision int64, f func([]store.Event) error) error {
	select {
	case <-s.blind:
		return s.flakyStore.Watch(ctx, prefix, revision, f)
	default:
	}
	select {
	case <-s.blind:
		return s.err
	case <-ctx.Done():
		return nil
	}
}

// What a watch missed is found by listing again.
func TestWatchThatBreaks(t *testing.T) {
	for _, broken := range []error{store.ErrCompacted, errors.New("connection lost")} {
		t.Run(broken.Error(), func(t *testing.T) {
			w := newWorld(t)
			for _, v := range []string{"one", "two"} {
				w.handle(v, answer(v))
			}
			blind := make(chan struct{})
			parts := w.parts()
			parts.Store = func(context.Context, *node.Config) (store.Store, error) {
				return blindStore{w.st, blind, broken}, nil
			}
			n, _ := w.assemble(w.config(), parts)
			deploy(t, n, function("gone", "one"))
			other := otherWriter{t, w.st}
			w.bring(function("fan", "one"))
			other.deploys(function("fan", "one"), time.Now())
			if _, err := w.st.Commit(t.Context(), nil, []store.Op{{Key: "/edgefn/functions/gone", Delete: true}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			if fs := mustFunctions(t, n); slices.ContainsFunc(fs, func(f api.FunctionInfo) bool { return f.Name == "fan" }) {
				t.Fatalf("a node that cannot see has %+v", fs)
			}
			close(blind)
			answers(t, n, "fan", "one")
			eventually(t, "what was deleted is gone", func() bool { return len(mustFunctions(t, n)) == 1 })
			w.bring(function("fan", "two"))
			other.deploys(function("fan", "two"), time.Now())
			answers(t, n, "fan", "two")
		})
	}
}

// A record that nobody can read keeps no other function from being served.
func TestRecordThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.handle("one", answer("one"))
	n, _ := w.run(w.config())
	other := otherWriter{t, w.st}
	other.put("/edgefn/functions/fan", "no record")
	deploy(t, n, function("fine", "one"))
	w.bring(function("fan", "one"))
	other.deploys(function("fan", "one"), time.Now())
	answers(t, n, "fan", "one")
}
