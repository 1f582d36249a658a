package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/edgefn/edgefn/node/backup"
)

// stage stages a backup in a new data folder and commits it.
func stage(t *testing.T, b []byte) (data string) {
	t.Helper()
	data = t.TempDir()
	s, err := backup.Stage(t.Context(), data, bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Info.Node != "gate" {
		t.Errorf("staged %+v", s.Info)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	return data
}

// restored is a store that is a text.
type restored struct {
	text string
	n    int // times
	err  error
}

func (r *restored) restore(_ context.Context, in io.Reader) (string, error) {
	r.n++
	b, err := io.ReadAll(in)
	if err != nil || r.err != nil {
		return "", errors.Join(err, r.err)
	}
	r.text = string(b)
	return "store.old-1", nil
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func wantEntries(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := entries(t, dir); !slices.Equal(got, want) {
		t.Errorf("in the data folder are %v, want %v", got, want)
	}
}

// host takes images, as a node's containerd does.
type host struct {
	blobs    map[string]string
	versions []string
	unfit    string // a version that it does not run
	err      error
	tars     int
}

func (h *host) has(_ context.Context, version string) (bool, error) {
	return slices.Contains(h.versions, version), nil
}

func (h *host) load(_ context.Context, r io.Reader) error {
	h.tars++
	if h.err != nil {
		return h.err
	}
	var index string
	for tr := tar.NewReader(r); ; {
		m, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if d, ok := strings.CutPrefix(m.Name, "blobs/sha256/"); ok {
			if digest(string(b)) != "sha256:"+d {
				return errors.New("a blob is damaged")
			}
			h.blobs["sha256:"+d] = string(b)
		}
		if m.Name == "index.json" {
			index = string(b)
		}
	}
	_, rest, _ := strings.Cut(index, `"digest":"`)
	version, _, _ := strings.Cut(rest, `"`)
	if version == h.unfit {
		return fmt.Errorf("%w: it is for another processor", backup.ErrUnfit)
	}
	if _, ok := h.blobs[version]; !ok || strings.Count(index, "digest") != 1 {
		return fmt.Errorf("not an image: %s", index)
	}
	h.versions = append(h.versions, version)
	return nil
}

func TestRestore(t *testing.T) {
	s := newSite(t)
	data := stage(t, s.write(t))
	wantEntries(t, data, "restore", "restore/backup.tar")
	var r restored
	out, err := backup.RestoreStore(t.Context(), data, nil, r.restore)
	if err != nil || out.Err != nil {
		t.Fatal(err, out.Err)
	}
	if r.text != "the store" || out.Old != "store.old-1" || out.Info.Node != "gate" {
		t.Errorf("restored %q: %+v", r.text, out)
	}
	wantEntries(t, data, "restore", "restore/images.tar")
	if !backup.HasImages(data) {
		t.Error("there are no images to be imported")
	}
	// Nothing is restored twice: events may have come meanwhile.
	if out, err := backup.RestoreStore(t.Context(), data, nil, r.restore); out != nil || err != nil || r.n != 1 {
		t.Errorf("again: %+v, %v", out, err)
	}
	h := &host{blobs: map[string]string{}, versions: []string{s.old}, unfit: s.hat}
	h.blobs[digest("layer")], h.blobs[digest("config one")], h.blobs[digest("index one")] = "layer", "config one", "index one"
	left, err := backup.ImportImages(t.Context(), data, h.has, h.load)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || !strings.Contains(left[0], s.hat) || !strings.Contains(left[0], "another processor") {
		t.Errorf("left out are %v", left)
	}
	if h.tars != 2 || !slices.Equal(h.versions, []string{s.old, s.new}) {
		t.Errorf("after %d imports there are %v", h.tars, h.versions)
	}
	for _, d := range s.images.versions[s.new] {
		if h.blobs[d] != s.images.blobs[d] {
			t.Errorf("blob %s is %q", d, h.blobs[d])
		}
	}
	wantEntries(t, data)
}

// What is staged and not wanted, or not whole, leaves nothing and does nothing.
func TestStageRefuses(t *testing.T) {
	b := newSite(t).write(t)
	data := t.TempDir()
	for name, r := range map[string]io.Reader{
		"cut short":  bytes.NewReader(b[:len(b)/2]),
		"line broke": io.MultiReader(bytes.NewReader(b[:3000]), iotest.ErrReader(errors.New("the line is dead"))),
	} {
		if _, err := backup.Stage(t.Context(), data, r, nil); err == nil {
			t.Errorf("%s: it is staged", name)
		}
		wantEntries(t, data)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backup.Stage(ctx, data, bytes.NewReader(b), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s, err := backup.Stage(t.Context(), data, iotest.OneByteReader(bytes.NewReader(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(data, "restore", "upload"))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("what is staged is not what came: %v", err)
	}
	// A node that was killed now starts, and nobody has said that it is wanted.
	var r restored
	if out, err := backup.RestoreStore(t.Context(), data, nil, r.restore); out != nil || err != nil || r.n != 0 {
		t.Errorf("restored without a word: %+v, %v", out, err)
	}
	wantEntries(t, data)
	if err := s.Discard(); err != nil {
		t.Error(err)
	}
}

// A restore that cannot be done is given up, and the node starts as it was.
func TestRestoreFails(t *testing.T) {
	b := newSite(t).write(t)
	own := errors.New("no room")
	for name, c := range map[string]struct {
		harm func(t *testing.T, path string)
		r    restored
		want error
	}{
		"no room": {func(*testing.T, string) {}, restored{err: own}, own},
		"damaged on the disk": {func(t *testing.T, path string) {
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		}, restored{}, backup.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			data := stage(t, b)
			c.harm(t, filepath.Join(data, "restore", "backup.tar"))
			out, err := backup.RestoreStore(t.Context(), data, nil, c.r.restore)
			if err != nil || !errors.Is(out.Err, c.want) || c.r.text != "" {
				t.Errorf("%+v, %v", out, err)
			}
			wantEntries(t, data)
		})
	}
}

// A restore that was interrupted is gone on with: before the store is restored,
// just after it, and between two images.
func TestRestoreInterrupted(t *testing.T) {
	s := newSite(t)
	b := s.write(t)
	data := stage(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	var r restored
	out, err := backup.RestoreStore(ctx, data, nil, func(ctx context.Context, in io.Reader) (string, error) {
		cancel()
		return r.restore(ctx, in)
	})
	if !errors.Is(err, context.Canceled) || out != nil || r.text != "" {
		t.Fatalf("interrupted: %+v, %v", out, err)
	}
	wantEntries(t, data, "restore", "restore/backup.tar")
	if _, err := backup.RestoreStore(t.Context(), data, nil, r.restore); err != nil || r.text != "the store" {
		t.Fatal(err)
	}
	own := errors.New("containerd is down")
	h := &host{blobs: map[string]string{}}
	_, err = backup.ImportImages(t.Context(), data, h.has, func(ctx context.Context, in io.Reader) error {
		if h.tars == 2 {
			return own
		}
		return h.load(ctx, in)
	})
	if !errors.Is(err, own) || len(h.versions) != 2 {
		t.Fatalf("interrupted with %v: %v", h.versions, err)
	}
	wantEntries(t, data, "restore", "restore/images.tar")
	if left, err := backup.ImportImages(t.Context(), data, h.has, h.load); err != nil || len(left) > 0 || len(h.versions) != 3 {
		t.Errorf("%v, %v, there are %v", left, err, h.versions)
	}
	wantEntries(t, data)

	// A backup that is damaged once the store is restored has the node start all the same.
	data = stage(t, b)
	if _, err := backup.RestoreStore(t.Context(), data, nil, r.restore); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(data, "restore", "images.tar"), 5000); err != nil {
		t.Fatal(err)
	}
	if left, err := backup.ImportImages(t.Context(), data, h.has, h.load); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	wantEntries(t, data)
}

// A second backup takes the place of one that waits.
func TestStageTwice(t *testing.T) {
	s := newSite(t)
	data := stage(t, s.write(t))
	s.Now = when.Add(1e12)
	second, err := backup.Stage(t.Context(), data, bytes.NewReader(s.write(t)), nil)
	if err == nil {
		err = second.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	var r restored
	out, err := backup.RestoreStore(t.Context(), data, nil, r.restore)
	if err != nil || !out.Info.Time.Equal(second.Info.Time) || r.n != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}
