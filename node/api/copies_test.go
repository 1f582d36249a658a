package api_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

func TestBackup(t *testing.T) {
	b := backend()
	b.Copy, b.CopyNoImages = bytes.Repeat([]byte("all "), 1<<18), []byte("state")
	c := dial(t, apitest.Serve(t, b, api.Options{}))
	var got bytes.Buffer
	if err := c.Backup(t.Context(), api.BackupOptions{}, &got); err != nil || !bytes.Equal(got.Bytes(), b.Copy) {
		t.Errorf("got %d bytes of %d: %v", got.Len(), len(b.Copy), err)
	}
	got.Reset()
	if err := c.Backup(t.Context(), api.BackupOptions{NoImages: true}, &got); err != nil || got.String() != "state" {
		t.Errorf("got %q: %v", got.String(), err)
	}
	broken := errors.New("no disk")
	if err := c.Backup(t.Context(), api.BackupOptions{}, writerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be written: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A backup that fails after its first bytes must not look like one that is whole.
func TestBackupFails(t *testing.T) {
	for name, data := range map[string][]byte{"at once": nil, "in the middle": []byte("some of it")} {
		t.Run(name, func(t *testing.T) {
			b := backend()
			b.Copy = data
			b.Fail = map[string]error{"Backup": &api.Error{Err: api.ErrFull, Message: "no room\nat all: ä", Hint: "make room"}}
			c := dial(t, apitest.Serve(t, b, api.Options{}))
			err := c.Backup(t.Context(), api.BackupOptions{}, io.Discard)
			if !errors.Is(err, api.ErrFull) || err.Error() != "no room\nat all: ä" || api.Hint(err) != "make room" {
				t.Errorf("got %v (%s)", err, api.Hint(err))
			}
		})
	}
}

func TestRestore(t *testing.T) {
	b := backend()
	b.Node.Started = when
	path := apitest.Serve(t, b, api.Options{MaxBody: 10, MaxImage: 10, MaxCopy: 100})
	c := dial(t, path)
	got, err := c.Restore(t.Context(), strings.NewReader("the backup of a node"))
	if d := cmp.Diff(api.Restoring{Node: "gw1", Time: when, Functions: 1}, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if string(b.Copy) != "the backup of a node" {
		t.Errorf("the node got %q", b.Copy)
	}
	broken := errors.New("no disk")
	if _, err := c.Restore(t.Context(), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a file that cannot be read: %v", err)
	}
	if _, err := c.Restore(t.Context(), strings.NewReader(strings.Repeat("x", 101))); !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "100 bytes") {
		t.Errorf("too large a backup: %v", err)
	}
	b.Fail = map[string]error{"Restore": api.ErrInvalid}
	// It is refused while much of it is still to be sent.
	if _, err := c.Restore(t.Context(), io.LimitReader(zeros{}, 99)); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("refused: %v", err)
	}
	resp := ask(t, path, "GET", "/v1/backup?images=maybe", "")
	if resp.StatusCode != 400 {
		t.Errorf("images=maybe: %s", resp.Status)
	}
}

func TestStateMoves(t *testing.T) {
	b := backend()
	b.Details["other"] = b.Details["fan"]
	path := apitest.Serve(t, b, api.Options{MaxBody: 1 << 20})
	c := dial(t, path)
	large := bytes.Repeat([]byte{0, 255}, functions.MaxValue/2)
	for k, v := range map[string][]byte{"a": []byte("1"), "b/c": {}, "b/ä\n": large} {
		if err := c.StatePut(t.Context(), "fan", k, v); err != nil {
			t.Fatal(err)
		}
	}
	export := func(name, prefix string) map[string]string {
		got := map[string]string{}
		err := c.StateExport(t.Context(), name, prefix, func(e api.StateEntry) error {
			got[e.Key] = string(e.Value)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := map[string]string{"a": "1", "b/c": "", "b/ä\n": string(large)}
	if d := cmp.Diff(want, export("fan", "")); d != "" {
		t.Error(d)
	}
	if got := export("fan", "b/"); len(got) != 2 {
		t.Errorf("under b/ there is %d", len(got))
	}
	var lines bytes.Buffer
	body := ask(t, path, "GET", "/v1/functions/fan/export", "").Body
	if _, err := io.Copy(&lines, body); err != nil {
		t.Fatal(err)
	}
	if err := c.StatePut(t.Context(), "other", "old", nil); err != nil {
		t.Fatal(err)
	}
	got, err := c.StateImport(t.Context(), "other", &lines, true)
	if d := cmp.Diff(api.StateImported{Written: 3, Bytes: int64(1 + len(large)), Deleted: 1}, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if d := cmp.Diff(want, export("other", "")); d != "" {
		t.Error(d)
	}
	if _, err := c.StateImport(t.Context(), "other", strings.NewReader("{\"key\":"), false); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a bad line: %v", err)
	}
	if err := c.StateExport(t.Context(), "nope", "", nil); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no function: %v", err)
	}
	b.Fail = map[string]error{"StateExport end": api.ErrFull}
	n := 0
	err = c.StateExport(t.Context(), "other", "", func(api.StateEntry) error { n++; return nil })
	if !errors.Is(err, api.ErrFull) || n != 3 {
		t.Errorf("it failed after %d keys: %v", n, err)
	}
}
