package node_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/pool"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
	deployer "github.com/edgefn/edgefn/node/deploy"
)

// Blobs implements backup.Images: an image is one blob.
func (s fakeSandboxes) Blobs(_ context.Context, version string) (map[string]int64, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	b, ok := s.w.images[version]
	if !ok {
		return nil, errors.New("image is not there")
	}
	return map[string]int64{version: int64(len(b))}, nil
}

// OpenBlob implements backup.Images.
func (s fakeSandboxes) OpenBlob(_ context.Context, digest string) (io.ReadCloser, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return io.NopCloser(bytes.NewReader(s.w.images[digest])), nil
}

// Snapshot implements store.Snapshotter: a copy is the entries in JSON.
func (s *flakyStore) Snapshot(ctx context.Context, w io.Writer) (int64, error) {
	es, revision, err := s.List(ctx, "/", store.Read{})
	if err != nil {
		return 0, err
	}
	return revision, json.NewEncoder(w).Encode(es)
}

// restoring are parts whose store can be restored and that take images as a
// restore brings them.
func (w *world) restoring() node.Parts {
	p := w.parts()
	p.RestoreStore = func(ctx context.Context, _ *node.Config, r io.Reader) (string, error) {
		var es []store.Entry
		if err := json.NewDecoder(r).Decode(&es); err != nil {
			return "", err
		}
		w.st.Store = memstore.New(memstore.Config{})
		for _, e := range es {
			if _, err := w.st.Store.Commit(ctx, nil, []store.Op{{Key: e.Key, Value: e.Value}}); err != nil {
				return "", err
			}
		}
		return "/data/store.old-1", nil
	}
	p.Sandboxes = func(context.Context, *node.Config) (node.Sandboxes, error) {
		return tarSandboxes{fakeSandboxes{w}}, nil
	}
	return p
}

// tarSandboxes take a tar of an OCI layout too.
type tarSandboxes struct{ fakeSandboxes }

func (s tarSandboxes) Import(ctx context.Context, r io.Reader) (deployer.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return deployer.Image{}, err
	}
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if strings.HasPrefix(h.Name, "blobs/sha256/") {
			return s.fakeSandboxes.Import(ctx, tr)
		}
	}
	return s.fakeSandboxes.Import(ctx, bytes.NewReader(b))
}

// runs starts a node of restoring parts. end is what Run returned.
func (w *world) runs(cfg node.Config) (n *node.Node, end func(cancel bool) error) {
	w.t.Helper()
	ready := make(chan string, 1)
	cfg.Ready = func(line string) { ready <- line }
	n, err := node.Assemble(cfg, w.restoring())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	end = func(stop bool) error {
		if stop {
			cancel()
		}
		select {
		case err := <-ended:
			cancel()
			return err
		case <-time.After(20 * time.Second):
			w.t.Fatal("the node did not end")
			return nil
		}
	}
	select {
	case <-ready:
	case err := <-ended:
		w.t.Fatalf("node ended: %v", err)
	case <-time.After(10 * time.Second):
		w.t.Fatal("node is not ready")
	}
	return n, end
}

// A node is backed up while it runs, goes on and is restored: it stops by
// itself, and the next one serves what was, with its state and dead letters,
// and with an image that was gone.
func TestBackupAndRestore(t *testing.T) {
	w := newWorld(t)
	w.handle("fail", func(context.Context, pool.Invocation) (functions.Result, error) {
		return functions.Result{}, functions.Failf(functions.FailRaised, "on purpose")
	})
	w.handle("ok", func(context.Context, pool.Invocation) (functions.Result, error) {
		return functions.Result{Data: []byte("fine")}, nil
	})
	var busy []string
	cfg := w.config()
	cfg.Busy = func(line string) { busy = append(busy, line) }
	n, end := w.runs(cfg)
	deploy(t, n, function("bad", "fail"))
	deploy(t, n, function("good", "ok"))
	wantSettled(t, send(t, n, "bad", "bad/x", "", "1"))
	var letters []api.DeadLetter
	eventually(t, "the event is dead-lettered", func() (ok bool) {
		var err error
		letters, err = n.DeadList(t.Context(), "bad")
		return err == nil && len(letters) == 1
	})
	if err := n.StatePut(t.Context(), "good", "k", []byte("then")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := n.Backup(t.Context(), api.BackupOptions{}, &b); err != nil {
		t.Fatal(err)
	}
	info, err := backup.Check(bytes.NewReader(b.Bytes()))
	if err != nil || info.Node != "gate" || len(info.Functions) != 2 || len(info.Missing()) != 0 {
		t.Fatalf("backup of %+v: %v", info, err)
	}
	if err := n.StatePut(t.Context(), "good", "k", []byte("now")); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(t.Context(), "bad", api.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(w.images) != 1 {
		t.Fatalf("%d images are left", len(w.images))
	}

	// One that is cut short changes nothing.
	_, err = n.Restore(t.Context(), bytes.NewReader(b.Bytes()[:b.Len()-3000]))
	wantError(t, err, api.ErrRefused, "whole backup")
	if api.Hint(err) == "" {
		t.Error("no hint")
	}
	if v, err := n.StateGet(t.Context(), "good", "k"); err != nil || string(v) != "now" {
		t.Errorf("after a refusal k is %q: %v", v, err)
	}

	got, err := n.Restore(t.Context(), bytes.NewReader(b.Bytes()))
	if d := cmp.Diff(api.Restoring{Node: "gate", Time: info.Time, Functions: 2}, got); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	if err := end(false); !errors.Is(err, node.ErrAnew) {
		t.Fatalf("the node ended with %v", err)
	}

	n, end = w.runs(cfg)
	if v, err := n.StateGet(t.Context(), "good", "k"); err != nil || string(v) != "then" {
		t.Errorf("k is %q: %v", v, err)
	}
	if again, err := n.DeadList(t.Context(), "bad"); err != nil || cmp.Diff(letters, again) != "" {
		t.Errorf("dead letters %v: %v", again, err)
	}
	for _, name := range []string{"bad", "good"} {
		eventually(t, name+" serves", func() bool {
			out, err := n.Invoke(t.Context(), name, api.InvokeRequest{})
			return err == nil && (out.Failure == nil) == (name == "good")
		})
	}
	st, err := n.Status(t.Context())
	want := &api.Restored{Restoring: got, Old: "/data/store.old-1"}
	if d := cmp.Diff(want, st.Restored); err != nil || d != "" {
		t.Errorf("status: %v\n%s", err, d)
	}
	if len(busy) < 2 || !strings.Contains(busy[len(busy)-1], "images") {
		t.Errorf("busy with %q", busy)
	}
	if err := end(true); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(cfg.DataDir, "restore*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	n, end = w.runs(cfg)
	if st, err := n.Status(t.Context()); err != nil || st.Restored != nil {
		t.Errorf("a later start says %+v: %v", st.Restored, err)
	}
	if err := end(true); err != nil {
		t.Fatal(err)
	}
}

// A copy that the store does not take leaves the node as it was, and it says so.
func TestRestoreIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.handle("ok", func(context.Context, pool.Invocation) (functions.Result, error) { return functions.Result{}, nil })
	n, end := w.runs(w.config())
	deploy(t, n, function("good", "ok"))
	var b bytes.Buffer
	_, err := backup.Write(t.Context(), &b, backup.Source{
		Node: "other", Store: noStore{w.st}, Dir: t.TempDir(), Now: time.Now(), NoImages: "none",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Restore(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := end(false); !errors.Is(err, node.ErrAnew) {
		t.Fatal(err)
	}
	n, end = w.runs(w.config())
	st, err := n.Status(t.Context())
	if err != nil || st.Restored == nil || !strings.Contains(st.Restored.Error, "the store is what it was") || st.Functions != 1 || len(st.Warnings) != 1 {
		t.Errorf("status %+v: %v", st, err)
	}
	if err := end(true); err != nil {
		t.Fatal(err)
	}
}

// noStore is a store whose copy is none.
type noStore struct{ store.Store }

func (noStore) Snapshot(_ context.Context, w io.Writer) (int64, error) {
	_, err := io.WriteString(w, "no store at all")
	return 1, err
}

func TestRestoreOfStoreOutside(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Store.Endpoints = []string{"http://etcd.example:2379"}
	n, end := w.runs(cfg)
	_, err := n.Restore(t.Context(), strings.NewReader(""))
	wantError(t, err, api.ErrRefused, "etcd.example")
	_, err = node.RestoreData(t.Context(), cfg, strings.NewReader(""), nil, nil)
	wantError(t, err, api.ErrRefused, "etcd.example")
	if err := end(true); err != nil {
		t.Fatal(err)
	}
}

// A data folder is backed up and restored with the real store, and with no node.
func TestDataFolder(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	_, err := node.RestoreData(t.Context(), cfg, strings.NewReader("no backup"), nil, nil)
	wantError(t, err, api.ErrRefused, "whole backup")
	err = node.BackupData(t.Context(), cfg, api.BackupOptions{}, io.Discard)
	wantError(t, err, api.ErrNotFound, cfg.DataDir)

	open := func(f func(st store.Store)) {
		t.Helper()
		st, err := node.RealParts().Store(t.Context(), &cfg)
		if err != nil {
			t.Fatal(err)
		}
		f(st)
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(value string) {
		t.Helper()
		open(func(st store.Store) {
			ops := []store.Op{
				{Key: "/edgefn/functions/fan", Value: []byte(`{"version":"sha256:00"}`)},
				{Key: "/edgefn/versions/fan/sha256:" + strings.Repeat("0", 64), Value: []byte("{}")},
				{Key: "/edgefn/state/fan/k", Value: []byte(value)},
			}
			if _, err := st.Commit(t.Context(), nil, ops); err != nil {
				t.Fatal(err)
			}
		})
	}
	put("then")
	var b bytes.Buffer
	if err := node.BackupData(t.Context(), cfg, api.BackupOptions{}, &b); err != nil {
		t.Fatal(err)
	}
	info, err := backup.Check(bytes.NewReader(b.Bytes()))
	if err != nil || len(info.Functions) != 1 || len(info.Missing()) != 1 {
		t.Fatalf("backup of %+v: %v", info, err)
	}
	put("now")
	no := errors.New("no")
	asked := ""
	_, err = node.RestoreData(t.Context(), cfg, bytes.NewReader(b.Bytes()), nil, func(i backup.Info, replaced string) error {
		asked = fmt.Sprint(i.Node, " ", replaced)
		return no
	})
	if !errors.Is(err, no) || asked != "gate "+filepath.Join(cfg.DataDir, "store") {
		t.Errorf("asked %q: %v", asked, err)
	}
	check := func(want string) {
		t.Helper()
		open(func(st store.Store) {
			if e, _, err := st.Get(t.Context(), "/edgefn/state/fan/k", store.Read{}); err != nil || string(e.Value) != want {
				t.Errorf("k is %q, want %q: %v", e.Value, want, err)
			}
		})
	}
	check("now")
	out, err := node.RestoreData(t.Context(), cfg, bytes.NewReader(b.Bytes()), nil, func(backup.Info, string) error { return nil })
	if err != nil || out.Old != filepath.Join(cfg.DataDir, "store.old-1") || len(out.Left) != 1 {
		t.Fatalf("%+v: %v", out, err)
	}
	check("then")

	// On another machine there is nothing to be replaced, and nobody is asked.
	cfg.DataDir = filepath.Join(w.dir, "elsewhere")
	if out, err = node.RestoreData(t.Context(), cfg, bytes.NewReader(b.Bytes()), nil, nil); err != nil || out.Old != "" {
		t.Fatalf("%+v: %v", out, err)
	}
	check("then")

	// While a node runs, its folder is left alone.
	n, end := w.runs(cfg)
	_ = n
	_, err = node.RestoreData(t.Context(), cfg, bytes.NewReader(b.Bytes()), nil, nil)
	wantError(t, err, api.ErrRefused, "a node uses the data folder")
	if !strings.Contains(api.Hint(err), "--data") {
		t.Errorf("hint %q", api.Hint(err))
	}
	err = node.BackupData(t.Context(), cfg, api.BackupOptions{}, io.Discard)
	wantError(t, err, api.ErrRefused, "a node uses the data folder")
	if err := end(true); err != nil {
		t.Fatal(err)
	}
}

func TestStateExportAndImport(t *testing.T) {
	w := newWorld(t)
	w.handle("ok", func(context.Context, pool.Invocation) (functions.Result, error) { return functions.Result{}, nil })
	cfg := w.config()
	cfg.State.Keys = 1500
	n, stop := w.run(cfg)
	defer stop()
	for _, name := range []string{"fan", "fan-2", "hat"} {
		deploy(t, n, function(name, "ok"))
	}
	ctx := t.Context()
	export := func(name, prefix string) (text string, keys []string) {
		t.Helper()
		var b strings.Builder
		enc := json.NewEncoder(&b)
		err := n.StateExport(ctx, name, prefix, func(e api.StateEntry) error {
			keys = append(keys, e.Key+"="+string(e.Value[:min(len(e.Value), 8)]))
			return enc.Encode(e)
		})
		if err != nil {
			t.Fatal(err)
		}
		return b.String(), keys
	}
	// More than one page and one transaction, by number and by bytes.
	var lines strings.Builder
	enc := json.NewEncoder(&lines)
	large := strings.Repeat("x", functions.MaxValue)
	for i := range 1200 {
		v := fmt.Sprint(i)
		if i%400 == 0 {
			v = large
		}
		if err := enc.Encode(api.StateEntry{Key: fmt.Sprintf("k/%04d", i), Value: []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := n.StateImport(ctx, "fan", strings.NewReader(lines.String()), false)
	if err != nil || got.Written != 1200 || got.Deleted != 0 {
		t.Fatalf("%+v: %v", got, err)
	}
	text, keys := export("fan", "")
	if text != lines.String() {
		t.Errorf("what is exported is not what was imported: %d keys", len(keys))
	}
	if _, keys := export("fan", "k/119"); len(keys) != 10 || keys[0] != "k/1190=1190" {
		t.Errorf("under k/119 there are %v", keys)
	}
	if _, keys := export("fan-2", ""); len(keys) != 0 {
		t.Errorf("another function has %v", keys)
	}

	// What is not in the file stays, or goes.
	for _, k := range []string{"a", "b"} {
		if err := n.StatePut(ctx, "hat", k, []byte("old")); err != nil {
			t.Fatal(err)
		}
	}
	two := `{"key":"b","value":"bmV3"}` + "\n" + `{"key":"c","value":"bmV3"}`
	if got, err = n.StateImport(ctx, "hat", strings.NewReader(two), false); err != nil || got != (api.StateImported{Written: 2, Bytes: 6}) {
		t.Errorf("%+v: %v", got, err)
	}
	if _, keys := export("hat", ""); fmt.Sprint(keys) != "[a=old b=new c=new]" {
		t.Errorf("after an import: %v", keys)
	}
	if got, err = n.StateImport(ctx, "hat", strings.NewReader(two), true); err != nil || got != (api.StateImported{Written: 2, Bytes: 6, Deleted: 1}) {
		t.Errorf("%+v: %v", got, err)
	}
	if got, err = n.StateImport(ctx, "hat", strings.NewReader("\n"), true); err != nil || got != (api.StateImported{Deleted: 2}) {
		t.Errorf("%+v: %v", got, err)
	}

	// Nothing is written of a file with a fault, or of one that does not fit.
	for want, file := range map[string]string{
		"line 2: ":                 two[:len(two)-5],
		`key "b" is there twice`:   two + "\n" + two,
		"more than 1500 keys":      strings.ReplaceAll(lines.String(), "k/", "x/") + lines.String(),
		"BASE64} is expected":      two + "\n" + `{"key":"d"}`,
		"line 3: its key is empty": two + "\n" + `{"key":"","value":""}`,
	} {
		_, err := n.StateImport(ctx, "hat", strings.NewReader(file), true)
		wantError(t, err, nil, want)
		if !strings.Contains(api.Hint(err), "nothing was changed") {
			t.Errorf("%s: hint %q", want, api.Hint(err))
		}
		if !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrFull) {
			t.Errorf("%s: kind of %v", want, err)
		}
	}
	if _, keys := export("hat", ""); len(keys) != 0 {
		t.Errorf("written of bad files: %v", keys)
	}
	// The quota holds for what is there already too; it is said how far it came.
	_, err = n.StateImport(ctx, "fan", strings.NewReader(strings.ReplaceAll(lines.String(), "k/", "x/")), false)
	wantError(t, err, api.ErrFull, "0 of 1200 keys are written", "state.keys")
	_, err = n.StateImport(ctx, "nope", strings.NewReader(two), false)
	wantError(t, err, api.ErrNotFound)
	wantError(t, n.StateExport(ctx, "nope", "", nil), api.ErrNotFound)
	if left, err := filepath.Glob(filepath.Join(cfg.DataDir, "import*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
