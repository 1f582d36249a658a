package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
)

// copied is a store that can be copied.
type copied struct{ store.Store }

func (copied) Snapshot(_ context.Context, w io.Writer) (int64, error) {
	_, err := io.WriteString(w, "the store")
	return 7, err
}

// backupOf is a backup of a node with one function, whose image is not in it.
func backupOf(t *testing.T, why string) []byte {
	t.Helper()
	st := memstore.New(memstore.Config{})
	defer func() { _ = st.Close() }()
	ops := []store.Op{{Key: "/edgefn/functions/fan", Value: []byte(`{"version":"sha256:00"}`)}}
	if why != "" {
		ops = append(ops, store.Op{Key: "/edgefn/versions/fan/" + fakeDigest('a'), Value: []byte("{}")})
	}
	if _, err := st.Commit(t.Context(), nil, ops); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	s := backup.Source{Node: "gw1", Edgefn: "v1", Store: copied{st}, Dir: t.TempDir(), Now: now, NoImages: why}
	if _, err := backup.Write(t.Context(), &b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// wantFolder checks what is in a folder: nothing half done stays in it.
func wantFolder(t *testing.T, dir string, want ...string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range es {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("in the folder are %v, want %v", got, want)
	}
}

func TestBackup(t *testing.T) {
	b := backend()
	b.Copy, b.CopyNoImages = backupOf(t, ""), backupOf(t, "left out, as was asked for")
	s := open(t, b)
	dir := t.TempDir()
	file := filepath.Join(dir, "gate.tar")
	s.run("backup", file).want(t, 0, "backup of node gw1 at 2026-03-04 05:06:07: 1 function, a store of 9 B, images of 0 B\n", "")
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, b.Copy) {
		t.Errorf("the file is not what the node sent: %v", err)
	}
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", i.Mode(), err)
	}
	wantFolder(t, dir, "gate.tar")
	o := s.run("backup", file, "--no-images", "-o", "json")
	var info backup.Info
	if err := json.Unmarshal([]byte(o.out), &info); err != nil || o.code != 0 || info.Revision != 7 || len(info.Missing()) != 1 {
		t.Errorf("%+v: %v", o, err)
	}
	o = s.run("backup", "-")
	if o.code != 0 || o.out != string(b.Copy) || !strings.Contains(o.err, "backup of node gw1") {
		t.Errorf("to stdout: %d, %d bytes, %q", o.code, len(o.out), o.err)
	}
	s.run("backup", "-", "-o", "json").want(t, 2, "", "name a file")
	s.run("backup", file, "--node", s.path, "--data", dir).want(t, 2, "", "--node means a node that runs")
	s.run("backup", filepath.Join(dir, "none", "x.tar")).want(t, 1, "", "no such file")
	s.env["EDGEFN_NODE"] = filepath.Join(dir, "none.sock")
	s.run("backup", file).want(t, 6, "", "edgefn backup FILE --data /var/lib/edgefn")
}

// A backup that is not whole leaves the last one as it is.
func TestBackupFails(t *testing.T) {
	whole := backupOf(t, "")
	for name, c := range map[string]struct {
		copy []byte
		fail error
		want string
	}{
		"cut short":  {whole[:len(whole)-2000], nil, "cut short"},
		"it fails":   {whole[:600], api.ErrFull, "no space"},
		"it is none": {[]byte("hello"), nil, "no tar"},
	} {
		t.Run(name, func(t *testing.T) {
			b := backend()
			b.Copy, b.Fail = c.copy, map[string]error{"Backup": c.fail}
			dir := t.TempDir()
			file := filepath.Join(dir, "gate.tar")
			if err := os.WriteFile(file, []byte("the last one"), 0o600); err != nil {
				t.Fatal(err)
			}
			open(t, b).run("backup", file).want(t, 1, "", c.want)
			wantFolder(t, dir, "gate.tar")
			if got, err := os.ReadFile(file); err != nil || string(got) != "the last one" {
				t.Errorf("the last one is %q: %v", got, err)
			}
		})
	}
}

func TestBackupOfDataFolder(t *testing.T) {
	s := open(t, backend())
	dir := t.TempDir()
	file := filepath.Join(dir, "gate.tar")
	t.Chdir(dir)
	s.tools.backup = func(cfg node.Config, o api.BackupOptions, w io.Writer) error {
		if cfg.DataDir != filepath.Join(dir, "d") {
			t.Errorf("data folder %s", cfg.DataDir)
		}
		why := "containerd does not run"
		if o.NoImages {
			why = "left out, as was asked for"
		}
		_, err := w.Write(backupOf(t, why))
		return err
	}
	s.run("backup", file, "--data", "d").want(t, 1, "backup of node gw1", "complete but for 1 image:\n  function \"fan\", version "+fakeDigest('a')+": containerd does not run")
	wantFolder(t, dir, "gate.tar")
	s.run("backup", file, "--data", "d", "--no-images").want(t, 0, "backup of node gw1", "")
	s.run("backup", file, "--config", "none.yaml").want(t, 2, "", "none.yaml")
}

// restoreFile is a backup in a file.
func restoreFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gate.tar")
	if err := os.WriteFile(file, backupOf(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRestore(t *testing.T) {
	file := restoreFile(t)
	newSession := func() (*session, func() []byte) {
		b := backend()
		b.OnRestored = func() {
			old := b.Node.Started
			b.Node.Started = now.Add(time.Hour)
			b.Node.Restored = &api.Restored{Restoring: api.Restoring{Node: b.Node.Node, Time: old, Functions: len(b.Details)}, Old: "/d/store.old-1", Left: []string{"fan is not here"}}
		}
		return open(t, b), func() []byte { return b.Copy }
	}
	s, got := newSession()
	s.run("restore", file).want(t, 2, "", "--yes")
	if got() != nil {
		t.Fatal("it was restored without a word")
	}
	o := s.run("restore", file, "--yes")
	o.want(t, 0, "restored the backup of node gw1", "what was there before is in /d/store.old-1")
	if !strings.Contains(o.err, "deploy again: fan is not here") || !bytes.Equal(got(), backupOf(t, "")) {
		t.Errorf("%q", o.err)
	}

	s, got = newSession()
	s.terminal = true
	o = s.runWith(t.Context(), "n\n", "restore", file)
	if o.code != 1 || !strings.Contains(o.err, "Replace all functions and all state of node gw1 by the backup of node gw1 at 2026-03-04 05:06:07 with 1 function? [y/N]") || got() != nil {
		t.Errorf("no: %+v", o)
	}
	if o = s.runWith(t.Context(), "", "restore", file); o.code != 1 || got() != nil {
		t.Errorf("no answer: %+v", o)
	}
	if o = s.runWith(t.Context(), "yes\n", "restore", file, "-o", "json"); o.code != 0 || !strings.Contains(o.out, `"old": "/d/store.old-1"`) {
		t.Errorf("yes: %+v", o)
	}

	s, got = newSession()
	text := string(backupOf(t, ""))
	s.runWith(t.Context(), text, "restore", "-").want(t, 2, "", "--yes")
	if o := s.runWith(t.Context(), text, "restore", "-", "--yes"); o.code != 0 || string(got()) != text {
		t.Errorf("from stdin: %+v", o)
	}
}

func TestRestoreFails(t *testing.T) {
	file := restoreFile(t)
	b := backend()
	s := open(t, b)
	s.run("restore", file+"x", "--yes").want(t, 2, "", "no such file")
	s.run("restore", file, "--wait", "0s").want(t, 2, "", "--wait")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.tar")
	if err := os.WriteFile(bad, whole[:len(whole)-2000], 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("restore", bad).want(t, 1, "", "nothing was changed")
	b.Fail = map[string]error{"Restore": &api.Error{Err: api.ErrFull, Message: "no room for it", Hint: "free the disk"}}
	s.run("restore", file, "--yes").want(t, 1, "", "no room for it")
	b.Fail = nil
	// It takes the backup and goes on as if nothing were.
	s.run("restore", file, "--yes", "--wait", "300ms").want(t, 5, "", "does not serve again after 300ms")
	b.OnRestored = func() { b.Node.Started = now.Add(time.Hour) }
	s.run("restore", file, "--yes").want(t, 1, "", "says nothing of a backup")
	b.OnRestored = func() {
		b.Node.Started = now.Add(2 * time.Hour)
		b.Node.Restored = &api.Restored{Error: "the copy is damaged: the store is what it was"}
	}
	s.run("restore", file, "--yes").want(t, 1, "", "node gw1 serves again: the copy is damaged")
	s.env["EDGEFN_NODE"] = filepath.Join(t.TempDir(), "none.sock")
	s.run("restore", file, "--yes").want(t, 6, "", "edgefn restore FILE --data /var/lib/edgefn")
}

func TestRestoreOfDataFolder(t *testing.T) {
	file := restoreFile(t)
	s := open(t, backend())
	there := true
	s.tools.restore = func(cfg node.Config, r io.Reader, confirm func(backup.Info, string) error) (api.Restored, error) {
		i, err := backup.Check(r)
		if err == nil && there {
			err = confirm(i, cfg.DataDir+"/store")
		}
		if err != nil {
			return api.Restored{}, err
		}
		return api.Restored{Restoring: api.Restoring{Node: i.Node, Time: i.Time, Functions: 1}, Old: "/d/store.old-3"}, nil
	}
	s.run("restore", file, "--data", "/d").want(t, 2, "", "the store in /d/store")
	s.run("restore", file, "--data", "/d", "--yes").want(t, 0, "restored the backup of node gw1 at 2026-03-04 05:06:07: 1 function", "/d/store.old-3")
	there = false
	s.run("restore", file, "--data", "/d").want(t, 0, "restored the backup", "/d/store.old-3")
	there, s.terminal = true, true
	if o := s.runWith(t.Context(), "Y\n", "restore", file, "--data", "/d"); o.code != 0 || !strings.Contains(o.err, "Replace the store in /d/store by the backup of node gw1") {
		t.Errorf("%+v", o)
	}
}

func TestStateExportImport(t *testing.T) {
	b := backend()
	s := open(t, b)
	for k, v := range map[string]string{"a": "1", "b/<": "two"} {
		if o := s.run("state", "put", "fan", k, v); o.code != 0 {
			t.Fatal(o.err)
		}
	}
	const a, bLine = `{"key":"a","value":"MQ=="}` + "\n", `{"key":"b/<","value":"dHdv"}` + "\n"
	s.run("state", "export", "fan").want(t, 0, a+bLine, "")
	s.run("state", "export", "fan", "-", "--prefix", "b").want(t, 0, bLine, "")
	dir := t.TempDir()
	file := filepath.Join(dir, "fan.jsonl")
	s.run("state", "export", "fan", file).want(t, 0, "", "2 keys with 4 B of values")
	if got, err := os.ReadFile(file); err != nil || string(got) != a+bLine {
		t.Errorf("%q: %v", got, err)
	}
	if o := s.run("state", "put", "fan", "c", "3"); o.code != 0 {
		t.Fatal(o.err)
	}
	s.run("state", "import", "fan", file, "--replace").want(t, 0, "2 keys written, 4 B of values, 1 key deleted\n", "")
	o := s.runWith(t.Context(), bLine, "state", "import", "fan", "-o", "json")
	if o.code != 0 || !strings.Contains(o.out, `"written": 1`) {
		t.Errorf("%+v", o)
	}
	s.runWith(t.Context(), a+"{", "state", "import", "fan", "-").want(t, 2, "", "line 2")
	s.run("state", "import", "fan", file+"x").want(t, 2, "", "no such file")
	s.run("state", "export", "nope", file).want(t, 4, "", "nope")
	if got, err := os.ReadFile(file); err != nil || string(got) != a+bLine {
		t.Errorf("after a failure it is %q: %v", got, err)
	}
	b.Fail = map[string]error{"StateExport end": errors.New("the store is gone")}
	s.run("state", "export", "fan", file).want(t, 1, "", "the store is gone")
	wantFolder(t, dir, "fan.jsonl")
}
