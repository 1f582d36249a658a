package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("API_TEST_HOLD"); path != "" {
		if err := hold(path); err != nil {
			fmt.Fprintln(os.Stderr, "hold connections:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

var when = time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)

func backend() *apitest.Backend {
	detail := api.FunctionDetail{
		FunctionInfo: api.FunctionInfo{
			Name: "fan", Version: "sha256:b", Runtime: functions.Python, State: "serving",
			Triggers: []string{"mqtt local a/+"}, Instances: 2, Queued: 1, Dead: 2, Deployed: when,
		},
		Function: functions.Defaults(),
		Versions: []api.VersionInfo{{Version: "sha256:b", Deployed: when, Active: true}, {Version: "sha256:a", Deployed: when}},
		Usage:    api.Usage{Function: "fan", Invocations: 7, WallMS: 1.5, Since: when},
		Sources:  []api.SourceInfo{{Trigger: "readings", State: "connected"}},
	}
	return &apitest.Backend{
		Details: map[string]api.FunctionDetail{"fan": detail},
		Lines: []api.LogLine{
			{Time: when, Level: "info", Function: "fan", Stream: "stdout", Text: "one"},
			{Time: when.Add(time.Second), Level: "error", Function: "fan", Stream: "log", Text: "two"},
		},
		Letters: []api.DeadLetter{
			{ID: "01/..", Function: "fan", Failure: functions.Failure{Kind: functions.FailRaised, Message: "m"}, Event: api.EventInfo{ID: "e", Data: []byte{0, 255}}},
			{ID: "02", Function: "fan", Cut: true},
		},
		Node: api.Status{Node: "gw1", Ready: true, Runtimes: map[string]string{"python": "3.11.2"}},
		Hard: api.Devices{
			Devices: []api.Device{{Name: "relay", Kind: "line", What: "out", Value: "off", Holders: []api.Holder{{Function: "fan", Command: new(bool)}}, Listeners: []string{}}},
			Found:   []api.FoundDevice{{Kind: "i2c", Name: "i2c-1"}},
		},
		Clients: []api.MQTTClient{
			{ID: "a/ä", Listener: "127.0.0.1:1883", Address: "127.0.0.1:50000", Version: "5", Since: when},
			{ID: "b", User: "pump", Subscriptions: 2, Queued: 3, Since: when},
		},
		Blobs: []string{digestOf("there")},
	}
}

func dial(t *testing.T, path string) *api.Client {
	t.Helper()
	c, err := api.Dial("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, b api.Backend) *api.Client {
	t.Helper()
	return dial(t, apitest.Serve(t, b, api.Options{}))
}

// The client behaves as the Backend that its server serves.
func TestClientIsBackend(t *testing.T) {
	for _, side := range []string{"direct", "client"} {
		t.Run(side, func(t *testing.T) {
			var b api.Backend = backend()
			if side == "client" {
				b = serve(t, b)
			}
			conformance(t, b)
		})
	}
}

func same(t *testing.T, what string, got, want any, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func conformance(t *testing.T, b api.Backend) {
	t.Helper()
	ctx := t.Context()
	want := backend()

	fs, err := b.Functions(ctx)
	same(t, "Functions", fs, []api.FunctionInfo{want.Details["fan"].FunctionInfo}, err)
	d, err := b.Describe(ctx, "fan")
	same(t, "Describe", d, want.Details["fan"], err)
	st, err := b.Status(ctx)
	same(t, "Status", st, want.Node, err)
	clients, err := b.MQTTClients(ctx, "", 0)
	same(t, "MQTTClients", clients, want.Clients, err)
	clients, err = b.MQTTClients(ctx, "a/ä", 1)
	same(t, "MQTTClients after one", clients, want.Clients[1:], err)
	hard, err := b.Devices(ctx)
	same(t, "Devices", hard, want.Hard, err)
	if err := b.Simulate(ctx, "relay", "off"); err != nil {
		t.Fatalf("Simulate: %v", err)
	}
	if err := b.Simulate(ctx, "lamp", "on"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("Simulate of what is not there: %v", err)
	}
	us, err := b.Usage(ctx, "")
	same(t, "Usage", us, []api.Usage{want.Details["fan"].Usage}, err)

	in, err := b.Invoke(ctx, "fan", api.InvokeRequest{ID: "x", Data: []byte{0, 1, 255}, DataContentType: "a/b"})
	same(t, "Invoke", in, api.Invoked{ID: "x", Invocation: "i1", Data: []byte{0, 1, 255}, DataContentType: "a/b"}, err)

	version, there, gone := digestOf("version"), digestOf("there"), digestOf("gone")
	ms, err := b.Missing(ctx, version, []string{there, gone})
	same(t, "Missing", ms, []string{gone}, err)
	ms, err = b.Missing(ctx, version, []string{there})
	if err != nil || len(ms) != 0 {
		t.Fatalf("Missing when all are there: %v %v", ms, err)
	}

	var steps []api.Progress
	dep, err := b.Deploy(ctx, strings.NewReader("tar"), api.DeployOptions{Wait: time.Second}, func(p api.Progress) { steps = append(steps, p) })
	same(t, "Deploy", dep, api.Deployed{Name: "fan", Version: "sha256:0123456789abcdef", Nodes: []string{"gw1"}}, err)
	same(t, "progress", steps, []api.Progress{{Step: "import", Text: "3 bytes"}, {Step: "activate", Text: "starting"}}, nil)
	dep, err = b.Rollback(ctx, "fan", "sha256:a", func(api.Progress) {})
	same(t, "Rollback", dep, api.Deployed{Name: "fan", Version: "sha256:a", Nodes: []string{"gw1"}}, err)

	paused, err := b.Pause(ctx, "fan", "")
	same(t, "Pause", paused, api.Paused{Function: "fan", Paused: true}, err)
	paused, err = b.Resume(ctx, "fan", "")
	same(t, "Resume", paused, api.Paused{Function: "fan"}, err)
	if _, err = b.Pause(ctx, "fan", "no such"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("Pause of no trigger: %v", err)
	}

	var lines []api.LogLine
	err = b.Logs(ctx, "fan", api.LogOptions{Since: when.Add(time.Millisecond)}, func(l api.LogLine) error {
		lines = append(lines, l)
		return nil
	})
	same(t, "Logs", lines, want.Lines[1:], err)
	stop := errors.New("stop")
	if err := b.Logs(ctx, "fan", api.LogOptions{}, func(api.LogLine) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("Logs with a failing f: %v", err)
	}
	follow, cancel := context.WithCancel(ctx)
	if err := b.Logs(follow, "fan", api.LogOptions{Follow: true}, func(l api.LogLine) error {
		if l.Text == "two" {
			cancel()
		}
		return nil
	}); err != nil {
		t.Fatalf("Logs with Follow, cancelled: %v", err)
	}
	cancel()

	for _, key := range []string{"a", "a/b", "..", ".", "a//b/", "%2F", "Grüße +?#&", "\x01\n"} {
		if err := b.StatePut(ctx, "fan", key, []byte("v:"+key)); err != nil {
			t.Fatalf("StatePut %q: %v", key, err)
		}
		v, err := b.StateGet(ctx, "fan", key)
		same(t, "StateGet "+key, v, []byte("v:"+key), err)
	}
	ks, err := b.StateList(ctx, "fan", "a", "a", 1)
	same(t, "StateList", ks, []api.StateKey{{Key: "a//b/", Bytes: 7}}, err)
	if err := b.StateDelete(ctx, "fan", "a/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.StateGet(ctx, "fan", "a/b"); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("StateGet of a deleted key: %v", err)
	}

	l, err := b.DeadShow(ctx, "fan", "01/..")
	same(t, "DeadShow", l, want.Letters[0], err)
	ls, err := b.DeadList(ctx, "fan")
	if err != nil || len(ls) != 2 || ls[0].Event.Data != nil {
		t.Fatalf("DeadList: %v %v", ls, err)
	}
	o, err := b.DeadRetry(ctx, "fan", "")
	same(t, "DeadRetry", o, api.DeadOutcome{Handled: 1, Failed: 1}, err)
	o, err = b.DeadDelete(ctx, "fan", "02")
	same(t, "DeadDelete", o, api.DeadOutcome{Deleted: 1}, err)

	if err := b.Remove(ctx, "fan", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(ctx, "fan", api.RemoveOptions{}); !errors.Is(err, api.ErrNotFound) || err.Error() != `function "fan": not found` {
		t.Fatalf("Remove twice: %v", err)
	}
	fs, err = b.Functions(ctx)
	if err != nil || len(fs) != 0 {
		t.Fatalf("Functions when empty: %v %v", fs, err)
	}
}

// digestOf is the digest of s.
func digestOf(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }

// Every error comes out of the client as it went into the server.
func TestErrors(t *testing.T) {
	for _, want := range []error{
		api.ErrNotFound, api.ErrInvalid, api.ErrRefused, api.ErrTimeout, api.ErrOverloaded, api.ErrStopping, api.ErrFull, api.ErrIncomplete,
	} {
		for _, streamed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", want, streamed), func(t *testing.T) {
				in := &api.Error{Err: fmt.Errorf("wrapped: %w", want), Message: "cannot do it: <why>", Hint: "do that"}
				b := backend()
				b.OnDeploy = func(_ context.Context, _ io.Reader, _ api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
					if streamed {
						progress(api.Progress{Step: "check"})
					}
					return api.Deployed{}, fmt.Errorf("deploy: %w", in)
				}
				_, err := serve(t, b).Deploy(t.Context(), strings.NewReader("x"), api.DeployOptions{}, nil)
				if !errors.Is(err, want) {
					t.Errorf("got %v, want one that is %v", err, want)
				}
				if got, want := err.Error(), "deploy: cannot do it: <why>"; got != want {
					t.Errorf("message %q, want %q", got, want)
				}
				if got := api.Hint(err); got != "do that" {
					t.Errorf("hint %q", got)
				}
			})
		}
	}
	t.Run("deadline", func(t *testing.T) {
		b := backend()
		b.Fail = map[string]error{"Status": fmt.Errorf("read store: %w", context.DeadlineExceeded)}
		if _, err := serve(t, b).Status(t.Context()); !errors.Is(err, api.ErrTimeout) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("other", func(t *testing.T) {
		b := backend()
		b.Fail = map[string]error{"Status": errors.New("disk on fire")}
		_, err := serve(t, b).Status(t.Context())
		if err == nil || err.Error() != "disk on fire" || errors.Is(err, api.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLogsFailInTheMiddle(t *testing.T) {
	b := backend()
	b.OnLogs = func(_ context.Context, _ string, _ api.LogOptions, f func(api.LogLine) error) error {
		if err := f(api.LogLine{Text: "first"}); err != nil {
			return err
		}
		return fmt.Errorf("read log: %w", api.ErrStopping)
	}
	var got []string
	err := serve(t, b).Logs(t.Context(), "fan", api.LogOptions{}, func(l api.LogLine) error {
		got = append(got, l.Text)
		return nil
	})
	if !errors.Is(err, api.ErrStopping) || len(got) != 1 {
		t.Errorf("got lines %q and error %v", got, err)
	}
}

// A failing image reader is the caller's error, not the node's.
func TestDeployReaderFails(t *testing.T) {
	boom := errors.New("boom")
	_, err := serve(t, backend()).Deploy(t.Context(), io.MultiReader(strings.NewReader("start"), errReader{boom}), api.DeployOptions{}, nil)
	if !errors.Is(err, boom) || errors.Is(err, api.ErrUnreach) {
		t.Errorf("got %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A node that refuses an image early is understood although the client is
// still sending.
func TestDeployRefusedEarly(t *testing.T) {
	b := backend()
	b.OnDeploy = func(_ context.Context, image io.Reader, _ api.DeployOptions, _ func(api.Progress)) (api.Deployed, error) {
		if _, err := io.ReadFull(image, make([]byte, 10)); err != nil {
			return api.Deployed{}, err
		}
		return api.Deployed{}, fmt.Errorf("no room for this: %w", api.ErrFull)
	}
	c := serve(t, b)
	for range 20 {
		_, err := c.Deploy(t.Context(), io.LimitReader(zeros{}, 8<<20), api.DeployOptions{}, nil)
		if !errors.Is(err, api.ErrFull) {
			t.Fatalf("got %v, want ErrFull", err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Steps arrive while the image is still on its way.
func TestDeployProgressDuringUpload(t *testing.T) {
	b := backend()
	b.OnDeploy = func(_ context.Context, image io.Reader, _ api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
		if _, err := io.ReadFull(image, make([]byte, 5)); err != nil {
			return api.Deployed{}, err
		}
		progress(api.Progress{Step: "import", Text: "begun"})
		rest, err := io.ReadAll(image)
		return api.Deployed{Name: string(rest)}, err
	}
	pr, pw := io.Pipe()
	seen := make(chan struct{})
	go func() {
		_, _ = io.WriteString(pw, "first")
		<-seen
		_, _ = io.WriteString(pw, "rest")
		_ = pw.Close()
	}()
	d, err := serve(t, b).Deploy(t.Context(), pr, api.DeployOptions{}, func(api.Progress) { close(seen) })
	same(t, "Deploy", d, api.Deployed{Name: "rest"}, err)
}

// Cancelling the client's context cancels the Backend's.
func TestCancelReachesBackend(t *testing.T) {
	gone := make(chan struct{})
	started := make(chan struct{})
	b := backend()
	b.OnInvoke = func(ctx context.Context, _ string, _ api.InvokeRequest) (api.Invoked, error) {
		close(started)
		<-ctx.Done()
		close(gone)
		return api.Invoked{}, ctx.Err()
	}
	c := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-started
		cancel()
	}()
	_, err := c.Invoke(ctx, "fan", api.InvokeRequest{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, api.ErrUnreach) {
		t.Errorf("got %v", err)
	}
	<-gone
}

// Whatever a key holds, it names the same key on both sides.
func TestKeysSurviveThePath(t *testing.T) {
	c := serve(t, backend())
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.StringN(1, 100, functions.MaxKey).Draw(rt, "key")
		val := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "value")
		if err := c.StatePut(t.Context(), "fan", key, val); err != nil {
			rt.Fatal(err)
		}
		ks, err := c.StateList(t.Context(), "fan", key, "", 1)
		if err != nil || len(ks) != 1 || ks[0].Key != key {
			rt.Fatalf("listed %v %v", ks, err)
		}
		got, err := c.StateGet(t.Context(), "fan", key)
		if err != nil || !bytes.Equal(got, val) {
			rt.Fatalf("got %v %v", got, err)
		}
		if err := c.StateDelete(t.Context(), "fan", key); err != nil {
			rt.Fatal(err)
		}
	})
}
