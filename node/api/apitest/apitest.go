// Package apitest provides a Backend in memory, for tests of what talks to a
// node through the control API.
package apitest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// Backend is a node in memory. Its fields are set before it is used.
type Backend struct {
	StateKept bool // by the last removal

	Details map[string]api.FunctionDetail // by name
	Lines   []api.LogLine
	Letters []api.DeadLetter
	Node    api.Status
	Hard    api.Devices
	Clients []api.MQTTClient // in order of their ids
	Blobs   []string         // digests of what it has of images

	Copy, CopyNoImages []byte // what a backup of it is

	// Fail makes the methods named here fail.
	Fail map[string]error

	// These take the place of the methods named so.
	OnDeploy   func(ctx context.Context, image io.Reader, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error)
	OnInvoke   func(ctx context.Context, name string, r api.InvokeRequest) (api.Invoked, error)
	OnRollback func(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error)
	OnLogs     func(ctx context.Context, name string, o api.LogOptions, f func(api.LogLine) error) error
	OnStatus   func(ctx context.Context) (api.Status, error)
	OnHealth   func(ctx context.Context) error

	OnRestored func() // is called when a backup was taken, with b locked

	mu    sync.Mutex // guards what follows, and Details and Letters once in use
	state map[string][]byte
}

var _ api.Backend = (*Backend)(nil)

// Serve serves b on a Unix socket of its own until the test ends and returns
// the socket's path.
func Serve(t testing.TB, b api.Backend, o api.Options) string {
	t.Helper()
	// t.TempDir carries the test's name, which can be longer than a socket's path may be.
	dir, err := os.MkdirTemp("", "api") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "edgefn.sock")
	l, err := api.Listen(path, api.Group)
	if err != nil {
		t.Fatal(err)
	}
	ServeOn(t, l, api.NewServer(b, o))
	return path
}

// ServeOn serves h on l until the test ends.
func ServeOn(t testing.TB, l net.Listener, h http.Handler) {
	t.Helper()
	s := api.HTTPServer(h, nil)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
}

func (b *Backend) known(name string) error {
	if _, ok := b.Details[name]; !ok {
		return fmt.Errorf("function %q: %w", name, api.ErrNotFound)
	}
	return nil
}

// begin locks b and says whether a method fails.
func (b *Backend) begin(method, name string) (unlock func(), err error) {
	b.mu.Lock()
	err = b.Fail[method]
	if err == nil && name != "" {
		err = b.known(name)
	}
	return b.mu.Unlock, err
}

// Deploy implements api.Backend. It reads the image and says that it serves.
func (b *Backend) Deploy(ctx context.Context, image io.Reader, o api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
	if b.OnDeploy != nil {
		return b.OnDeploy(ctx, image, o, progress)
	}
	if err := b.Fail["Deploy"]; err != nil {
		return api.Deployed{}, err
	}
	n, err := io.Copy(io.Discard, image)
	if err != nil {
		return api.Deployed{}, fmt.Errorf("read image: %w", err)
	}
	progress(api.Progress{Step: "import", Text: fmt.Sprintf("%d bytes", n)})
	progress(api.Progress{Step: "activate", Text: "starting"})
	return api.Deployed{Name: "fan", Version: "sha256:0123456789abcdef", Nodes: []string{"gw1"}}, nil
}

// Missing implements api.Backend.
func (b *Backend) Missing(_ context.Context, _ string, blobs []string) ([]string, error) {
	unlock, err := b.begin("Missing", "")
	defer unlock()
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, d := range blobs {
		if !slices.Contains(b.Blobs, d) {
			missing = append(missing, d)
		}
	}
	return missing, nil
}

// Functions implements api.Backend.
func (b *Backend) Functions(context.Context) ([]api.FunctionInfo, error) {
	unlock, err := b.begin("Functions", "")
	defer unlock()
	if err != nil {
		return nil, err
	}
	var infos []api.FunctionInfo
	for _, d := range b.Details {
		infos = append(infos, d.FunctionInfo)
	}
	slices.SortFunc(infos, func(x, y api.FunctionInfo) int { return strings.Compare(x.Name, y.Name) })
	return infos, nil
}

// Describe implements api.Backend.
func (b *Backend) Describe(_ context.Context, name string) (api.FunctionDetail, error) {
	unlock, err := b.begin("Describe", name)
	defer unlock()
	return b.Details[name], err
}

// Invoke implements api.Backend. It gives the event's data back.
func (b *Backend) Invoke(ctx context.Context, name string, r api.InvokeRequest) (api.Invoked, error) {
	if b.OnInvoke != nil {
		return b.OnInvoke(ctx, name, r)
	}
	unlock, err := b.begin("Invoke", name)
	defer unlock()
	return api.Invoked{ID: r.ID, Invocation: "i1", Data: r.Data, DataContentType: r.DataContentType}, err
}

// Logs implements api.Backend.
func (b *Backend) Logs(ctx context.Context, name string, o api.LogOptions, f func(api.LogLine) error) error {
	if b.OnLogs != nil {
		return b.OnLogs(ctx, name, o, f)
	}
	unlock, err := b.begin("Logs", name)
	unlock()
	if err != nil {
		return err
	}
	for _, l := range b.Lines {
		if l.Function != name || l.Time.Before(o.Since) {
			continue
		}
		if err := f(l); err != nil {
			return err
		}
	}
	if o.Follow {
		<-ctx.Done()
	}
	return nil
}

// Kept implements api.Backend.
func (b *Backend) Kept(_ context.Context, name string) (api.Kept, error) {
	unlock, err := b.begin("Kept", name)
	defer unlock()
	d := b.Details[name]
	return api.Kept{
		Versions: len(d.Versions), Triggers: len(d.Function.Triggers), DeadLetters: len(b.Letters),
		StateKeys: len(b.state[name]), StateBytes: 3 << 10, LogBytes: 2 << 20, Invocations: d.Usage.Invocations,
	}, err
}

// Remove implements api.Backend.
func (b *Backend) Remove(_ context.Context, name string, o api.RemoveOptions) error {
	unlock, err := b.begin("Remove", name)
	defer unlock()
	if err == nil {
		b.StateKept = o.KeepState
		delete(b.Details, name)
	}
	return err
}

// Rollback implements api.Backend.
func (b *Backend) Rollback(ctx context.Context, name, to string, progress func(api.Progress)) (api.Deployed, error) {
	if b.OnRollback != nil {
		return b.OnRollback(ctx, name, to, progress)
	}
	unlock, err := b.begin("Rollback", name)
	defer unlock()
	if err != nil {
		return api.Deployed{}, err
	}
	progress(api.Progress{Step: "activate", Text: "starting"})
	for _, v := range b.Details[name].Versions {
		if !v.Active && strings.HasPrefix(v.Version, to) {
			return api.Deployed{Name: name, Version: v.Version, Nodes: []string{"gw1"}}, nil
		}
	}
	return api.Deployed{}, fmt.Errorf("function %q has no version %q: %w", name, to, api.ErrNotFound)
}

// Pause implements api.Backend.
func (b *Backend) Pause(_ context.Context, name, trigger string) (api.Paused, error) {
	return b.pause("Pause", name, trigger, true)
}

// Resume implements api.Backend.
func (b *Backend) Resume(_ context.Context, name, trigger string) (api.Paused, error) {
	return b.pause("Resume", name, trigger, false)
}

// pause takes note of a pause in what Functions and Describe say.
func (b *Backend) pause(method, name, trigger string, paused bool) (api.Paused, error) {
	unlock, err := b.begin(method, name)
	defer unlock()
	if err != nil {
		return api.Paused{}, err
	}
	d := b.Details[name]
	if trigger == "" {
		d.State, d.PausedTriggers = map[bool]string{true: "paused", false: "serving"}[paused], nil
		b.Details[name] = d
		return api.Paused{Function: name, Paused: paused}, nil
	}
	if !slices.ContainsFunc(d.Function.Triggers, func(t functions.Trigger) bool { return t.Name == trigger }) {
		return api.Paused{}, fmt.Errorf("function %q has no trigger %q: %w", name, trigger, api.ErrNotFound)
	}
	d.PausedTriggers = slices.DeleteFunc(slices.Clone(d.PausedTriggers), func(t string) bool { return t == trigger })
	if paused {
		d.PausedTriggers = append(d.PausedTriggers, trigger)
	}
	b.Details[name] = d
	return api.Paused{Function: name, Triggers: d.PausedTriggers}, nil
}

// StateGet implements api.Backend.
func (b *Backend) StateGet(_ context.Context, name, key string) ([]byte, error) {
	unlock, err := b.begin("StateGet", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	v, ok := b.state[name+"\x00"+key]
	if !ok {
		return nil, fmt.Errorf("key %q of function %q: %w", key, name, api.ErrNotFound)
	}
	return v, nil
}

// StatePut implements api.Backend.
func (b *Backend) StatePut(_ context.Context, name, key string, value []byte) error {
	unlock, err := b.begin("StatePut", name)
	defer unlock()
	if err != nil {
		return err
	}
	if b.state == nil {
		b.state = map[string][]byte{}
	}
	b.state[name+"\x00"+key] = slices.Clone(value)
	return nil
}

// StateDelete implements api.Backend.
func (b *Backend) StateDelete(_ context.Context, name, key string) error {
	unlock, err := b.begin("StateDelete", name)
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := b.state[name+"\x00"+key]; !ok {
		return fmt.Errorf("key %q of function %q: %w", key, name, api.ErrNotFound)
	}
	delete(b.state, name+"\x00"+key)
	return nil
}

// StateList implements api.Backend.
func (b *Backend) StateList(_ context.Context, name, prefix, after string, limit int) ([]api.StateKey, error) {
	unlock, err := b.begin("StateList", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	var keys []api.StateKey
	for k, v := range b.state {
		key, ok := strings.CutPrefix(k, name+"\x00")
		if ok && strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, api.StateKey{Key: key, Bytes: len(v)})
		}
	}
	slices.SortFunc(keys, func(x, y api.StateKey) int { return strings.Compare(x.Key, y.Key) })
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
	}
	return keys, nil
}

// DeadList implements api.Backend.
func (b *Backend) DeadList(_ context.Context, name string) ([]api.DeadLetter, error) {
	unlock, err := b.begin("DeadList", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	letters := slices.Clone(b.Letters)
	for i := range letters {
		letters[i].Event.Data = nil
	}
	return letters, nil
}

// DeadShow implements api.Backend.
func (b *Backend) DeadShow(_ context.Context, name, id string) (api.DeadLetter, error) {
	unlock, err := b.begin("DeadShow", name)
	defer unlock()
	if err != nil {
		return api.DeadLetter{}, err
	}
	for _, l := range b.Letters {
		if l.ID == id {
			return l, nil
		}
	}
	return api.DeadLetter{}, fmt.Errorf("dead letter %q of function %q: %w", id, name, api.ErrNotFound)
}

// DeadRetry implements api.Backend. A letter that was cut fails again.
func (b *Backend) DeadRetry(_ context.Context, name, id string) (api.DeadOutcome, error) {
	return b.take("DeadRetry", name, id, func(l api.DeadLetter, o *api.DeadOutcome) bool {
		if l.Cut {
			o.Failed++
			return false
		}
		o.Handled++
		return true
	})
}

// DeadDelete implements api.Backend.
func (b *Backend) DeadDelete(_ context.Context, name, id string) (api.DeadOutcome, error) {
	return b.take("DeadDelete", name, id, func(_ api.DeadLetter, o *api.DeadOutcome) bool {
		o.Deleted++
		return true
	})
}

// take removes the letters that an id means and of which gone says so.
func (b *Backend) take(method, name, id string, gone func(api.DeadLetter, *api.DeadOutcome) bool) (api.DeadOutcome, error) {
	unlock, err := b.begin(method, name)
	defer unlock()
	var o api.DeadOutcome
	if err != nil {
		return o, err
	}
	var kept []api.DeadLetter
	found := id == ""
	for _, l := range b.Letters {
		match := id == "" || l.ID == id
		found = found || match
		if !match || !gone(l, &o) {
			kept = append(kept, l)
		}
	}
	b.Letters = kept
	if !found {
		return o, fmt.Errorf("dead letter %q of function %q: %w", id, name, api.ErrNotFound)
	}
	return o, nil
}

// Usage implements api.Backend.
func (b *Backend) Usage(_ context.Context, name string) ([]api.Usage, error) {
	unlock, err := b.begin("Usage", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	var us []api.Usage
	for n, d := range b.Details {
		if name == "" || n == name {
			us = append(us, d.Usage)
		}
	}
	slices.SortFunc(us, func(x, y api.Usage) int { return strings.Compare(x.Function, y.Function) })
	return us, nil
}

// Status implements api.Backend.
func (b *Backend) Status(ctx context.Context) (api.Status, error) {
	if b.OnStatus != nil {
		return b.OnStatus(ctx)
	}
	unlock, err := b.begin("Status", "")
	defer unlock()
	return b.Node, err
}

// Health implements api.Backend.
func (b *Backend) Health(ctx context.Context) error {
	if b.OnHealth != nil {
		return b.OnHealth(ctx)
	}
	return b.Fail["Health"]
}

// MQTTClients implements api.Backend.
func (b *Backend) MQTTClients(_ context.Context, after string, limit int) ([]api.MQTTClient, error) {
	unlock, err := b.begin("MQTTClients", "")
	defer unlock()
	var out []api.MQTTClient
	for _, c := range b.Clients {
		if c.ID > after && (limit <= 0 || len(out) < limit) {
			out = append(out, c)
		}
	}
	return out, err
}

// Devices implements api.Backend.
func (b *Backend) Devices(context.Context) (api.Devices, error) {
	unlock, err := b.begin("Devices", "")
	defer unlock()
	return b.Hard, err
}

// Simulate implements api.Backend. The device's value becomes what is asked for.
func (b *Backend) Simulate(_ context.Context, name, what string) error {
	unlock, err := b.begin("Simulate", "")
	defer unlock()
	if err != nil {
		return err
	}
	for i := range b.Hard.Devices {
		if d := &b.Hard.Devices[i]; d.Name == name {
			d.Value = what
			return nil
		}
	}
	return fmt.Errorf("device %q: %w", name, api.ErrNotFound)
}
