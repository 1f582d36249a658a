package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/edgefn/edgefn/cluster/store"
	"github.com/edgefn/edgefn/cluster/store/memstore"
	"github.com/edgefn/edgefn/node/backup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var when = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// copied is a store whose copy is a text.
type copied struct {
	store.Store
	text string
	err  error
}

func (c copied) Snapshot(_ context.Context, w io.Writer) (int64, error) {
	if _, err := io.WriteString(w, c.text); err != nil {
		return 0, err
	}
	return 42, c.err
}

// fakeImages are images by version, each of some blobs.
type fakeImages struct {
	versions map[string][]string // digests
	blobs    map[string]string
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// add adds an image of an index and some other blobs, and returns its version.
func (f *fakeImages) add(index string, blobs ...string) string {
	version := digest(index)
	for _, b := range append(blobs, index) {
		f.blobs[digest(b)] = b
		f.versions[version] = append(f.versions[version], digest(b))
	}
	return version
}

func (f *fakeImages) Blobs(_ context.Context, version string) (map[string]int64, error) {
	ds, ok := f.versions[version]
	if !ok {
		return nil, errors.New("image is not there")
	}
	out := map[string]int64{}
	for _, d := range ds {
		b, ok := f.blobs[d]
		if !ok {
			return nil, fmt.Errorf("image is not complete: blob %s is not there", d)
		}
		out[d] = int64(len(b))
	}
	return out, nil
}

func (f *fakeImages) OpenBlob(_ context.Context, d string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.blobs[d])), nil
}

// site is a node to be backed up: fan has two versions that share a layer.
type site struct {
	backup.Source
	images        *fakeImages
	old, new, hat string
}

func newSite(t *testing.T) *site {
	t.Helper()
	st := memstore.New(memstore.Config{})
	t.Cleanup(func() { _ = st.Close() })
	images := &fakeImages{versions: map[string][]string{}, blobs: map[string]string{}}
	s := &site{images: images}
	s.old = images.add("index one", "layer", "config one")
	s.new = images.add("index two", "layer", "config two")
	s.hat = images.add("index of hat", strings.Repeat("large ", 900))
	s.Source = backup.Source{Node: "gate", Edgefn: "v1", Store: copied{Store: st, text: "the store"}, Images: images, Dir: t.TempDir(), Now: when}
	var ops []store.Op
	for name, versions := range map[string][]string{"fan": {s.new, s.old}, "hat": {s.hat}, "going": nil} {
		record := map[string]any{"version": "x", "removing": name == "going"}
		if len(versions) > 0 {
			record["version"] = versions[0]
		}
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, store.Op{Key: "/edgefn/functions/" + name, Value: b})
		for _, v := range versions {
			ops = append(ops, store.Op{Key: "/edgefn/versions/" + name + "/" + v, Value: []byte("{}")})
		}
	}
	if _, err := st.Commit(t.Context(), nil, ops); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) write(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := backup.Write(t.Context(), &b, s.Source); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	return b.Bytes()
}

// member is one of a tar.
type member struct {
	name  string
	text  []byte
	end   int // where it ends in the tar, its padding included
	typ   byte
	extra map[string]string // PAX records
}

func membersOf(t *testing.T, b []byte) (out []member) {
	t.Helper()
	r := bytes.NewReader(b)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		end := len(b) - r.Len()
		out = append(out, member{name: h.Name, text: text, end: (end + 511) / 512 * 512, typ: tar.TypeReg})
	}
}

// tarOf makes a tar of members, with checksums that match, so that only what is
// looked at is wrong.
func tarOf(t *testing.T, ms []member) []byte {
	t.Helper()
	var b, sums bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, m := range ms {
		if m.name == "checksums" && m.text == nil {
			m.text = sums.Bytes()
		}
		h := &tar.Header{Name: m.name, Size: int64(len(m.text)), Mode: 0o600, Typeflag: m.typ, PAXRecords: m.extra}
		if m.typ != tar.TypeReg {
			h.Size, h.Linkname = 0, "/etc/passwd"
			m.text = nil
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(m.text); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(m.text), m.name)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWrite(t *testing.T) {
	s := newSite(t)
	b := s.write(t)
	got, err := backup.Check(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	size := func(ds []string) (out map[string]int64, n int64) {
		out = map[string]int64{}
		for _, d := range ds {
			out[d] = int64(len(s.images.blobs[d]))
			n += out[d]
		}
		return out, n
	}
	version := func(v string) backup.Version {
		blobs, n := size(s.images.versions[v])
		return backup.Version{Version: v, Bytes: n, Blobs: blobs}
	}
	versions := []backup.Version{version(s.new), version(s.old)}
	slices.SortFunc(versions, func(a, b backup.Version) int { return strings.Compare(a.Version, b.Version) })
	_, all := size(slices.Collect(maps.Keys(s.images.blobs)))
	want := backup.Info{
		Format: 1, Node: "gate", Edgefn: "v1", Time: when, Revision: 42, StoreBytes: 9, ImageBytes: all,
		Functions: []backup.Function{{Name: "fan", Version: s.new, Versions: versions}, {Name: "hat", Version: s.hat, Versions: []backup.Version{version(s.hat)}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("info (-want +got):\n%s", d)
	}
	var names []string
	for _, m := range membersOf(t, b) {
		names = append(names, m.name)
	}
	if len(names) != 5+len(s.images.blobs) || names[0] != "backup.json" || names[1] != "store.snapshot" || names[len(names)-1] != "checksums" {
		t.Errorf("members: %v", names)
	}
}

// What the package says of its files is true: common tools prove them.
func TestCommonTools(t *testing.T) {
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Skip("no sha256sum")
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", "tar -xf - && sha256sum -c checksums")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(newSite(t).write(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestImagesThatAreNotThere(t *testing.T) {
	s := newSite(t)
	delete(s.images.blobs, digest("config one")) // as containerd discards layers
	delete(s.images.versions, s.hat)
	got, err := backup.Check(bytes.NewReader(s.write(t)))
	if err != nil {
		t.Fatal(err)
	}
	missing := strings.Join(got.Missing(), "\n")
	for _, want := range []string{
		fmt.Sprintf("function \"fan\", version %s: image is not complete: blob %s is not there", s.old, digest("config one")),
		fmt.Sprintf("function \"hat\", version %s: image is not there", s.hat),
	} {
		if !strings.Contains(missing, want) {
			t.Errorf("%q is not said in\n%s", want, missing)
		}
	}
	if len(got.Missing()) != 2 {
		t.Errorf("missing are %v", got.Missing())
	}
	s.Images, s.NoImages = nil, "none are wanted"
	if got, err = backup.Check(bytes.NewReader(s.write(t))); err != nil || len(got.Missing()) != 3 || got.ImageBytes != 0 {
		t.Errorf("%+v: %v", got, err)
	}
}

func TestWriteFails(t *testing.T) {
	own := errors.New("the store is down")
	s := newSite(t)
	s.Store = copied{Store: s.Store.(copied).Store, text: "some", err: own}
	var b bytes.Buffer
	if _, err := backup.Write(t.Context(), &b, s.Source); !errors.Is(err, own) || b.Len() > 0 {
		t.Errorf("%v, %d bytes written", err, b.Len())
	}
	s = newSite(t)
	s.images.blobs[digest("layer")] = "LAYER" // as long, and another
	if _, err := backup.Write(t.Context(), io.Discard, s.Source); err == nil || !strings.Contains(err.Error(), digest("layer")) {
		t.Errorf("a damaged blob: %v", err)
	}
	s = newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := backup.Write(ctx, io.Discard, s.Source); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A backup that was cut anywhere is not taken for a whole one.
func TestTruncated(t *testing.T) {
	b := newSite(t).write(t)
	ms := membersOf(t, b)
	last := ms[len(ms)-1]
	var cuts []int
	for _, m := range ms {
		cuts = append(cuts, m.end-1, m.end, m.end+1, m.end+511, m.end+512, m.end+513)
	}
	for n := 0; n < len(b); n += 97 {
		cuts = append(cuts, n)
	}
	whole := last.end - 512 + (len(last.text)-1)%512 + 1 // all but the padding
	for _, n := range cuts {
		if n >= whole {
			continue
		}
		if _, err := backup.Check(bytes.NewReader(b[:n])); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("cut at %d of %d: %v", n, len(b), err)
		}
		if _, err := backup.Check(iotest.OneByteReader(bytes.NewReader(b[:n%2000]))); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("cut at %d: %v", n%2000, err)
		}
	}
	own := errors.New("the line is dead")
	_, err := backup.Check(io.MultiReader(bytes.NewReader(b[:3000]), iotest.ErrReader(own)))
	if !errors.Is(err, own) || errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a reader that fails: %v", err)
	}
}

// A bit that flipped is found, but where nothing stands.
func TestFlipped(t *testing.T) {
	b := newSite(t).write(t)
	want, err := backup.Check(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	found, members := 0, membersOf(t, b)
	for i := 0; i < len(b); i += 3 {
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		got, err := backup.Check(bytes.NewReader(flipped))
		if err != nil {
			found++
			continue
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("byte %d: %s", i, cmp.Diff(want, got))
		}
		for j, m := range membersOf(t, flipped) {
			if w := members[j]; m.name != w.name || !bytes.Equal(m.text, w.text) {
				t.Fatalf("byte %d of %d changed %s and was not found", i, len(b), m.name)
			}
		}
	}
	if found == 0 {
		t.Error("none was found")
	}
}

func TestCheckRefuses(t *testing.T) {
	s := newSite(t)
	ms := membersOf(t, s.write(t))
	ms[len(ms)-1].text = nil // made anew
	if _, err := backup.Check(bytes.NewReader(tarOf(t, ms))); err != nil {
		t.Fatal("made anew:", err)
	}
	find := func(ms []member, name string) int {
		return slices.IndexFunc(ms, func(m member) bool { return m.name == name })
	}
	insert := func(at int, m member) func([]member) []member {
		return func(ms []member) []member { return slices.Insert(ms, at, m) }
	}
	info := func(change func(i map[string]any)) func([]member) []member {
		return func(ms []member) []member {
			var i map[string]any
			if err := json.Unmarshal(ms[0].text, &i); err != nil {
				t.Fatal(err)
			}
			change(i)
			ms[0].text, _ = json.Marshal(i)
			return ms
		}
	}
	evil := []byte("evil")
	for name, c := range map[string]struct {
		change func([]member) []member
		want   string
	}{
		"a path out of it":      {insert(4, member{name: "images/../../etc/passwd", text: evil, typ: tar.TypeReg}), "nothing that a backup has"},
		"an absolute path":      {insert(4, member{name: "/etc/passwd", text: evil, typ: tar.TypeReg}), "nothing that a backup has"},
		"a path in a blob":      {insert(4, member{name: "images/blobs/sha256/../../x", text: evil, typ: tar.TypeReg}), "nothing that a backup has"},
		"another file":          {insert(4, member{name: "note", text: evil, typ: tar.TypeReg}), "nothing that a backup has"},
		"a blob of nobody":      {insert(4, member{name: "images/blobs/sha256/" + digest("evil")[7:], text: evil, typ: tar.TypeReg}), "is not in backup.json"},
		"a link":                {insert(2, member{name: "images/oci-layout", typ: tar.TypeSymlink}), "no plain file"},
		"a sparse file":         {insert(2, member{name: "images/oci-layout", typ: tar.TypeReg, extra: map[string]string{"EDGEFN.x": "y"}}), "no plain file"},
		"a blob twice":          {func(ms []member) []member { return slices.Insert(ms, 5, ms[5]) }, "there twice"},
		"its beginning twice":   {func(ms []member) []member { return slices.Insert(ms, 5, ms[0]) }, "there twice"},
		"the store twice":       {func(ms []member) []member { return slices.Insert(ms, 3, ms[1]) }, "there twice"},
		"no store":              {func(ms []member) []member { return slices.Delete(ms, 1, 2) }, "store.snapshot should be"},
		"no beginning":          {func(ms []member) []member { return ms[1:] }, "no backup of a node"},
		"a blob is gone":        {func(ms []member) []member { return slices.Delete(ms, 6, 7) }, "is not there"},
		"no checksums":          {func(ms []member) []member { return ms[:len(ms)-1] }, "cut short"},
		"something behind":      {func(ms []member) []member { return append(ms, ms[3]) }, "behind its end"},
		"a blob of other bytes": {func(ms []member) []member { ms[6].text = bytes.ToUpper(ms[6].text); return ms }, "digest of its name"},
		"a store of other size": {func(ms []member) []member { ms[1].text = evil; return ms }, "4 bytes and not 9"},
		"a store of other bytes": {func(ms []member) []member {
			ms[len(ms)-1].text = membersOf(t, s.write(t))[len(ms)-1].text
			ms[1].text = []byte("THE STORE")
			return ms
		}, "store.snapshot\" does not match"},
		"a beginning too large":   {func(ms []member) []member { ms[0].text = bytes.Repeat([]byte(" "), 32<<20+1); return ms }, "at most"},
		"no JSON":                 {func(ms []member) []member { ms[0].text = evil; return ms }, "backup.json: invalid"},
		"a newer format":          {info(func(i map[string]any) { i["format"] = 2 }), "edgefn v1 or a later one"},
		"no format":               {info(func(i map[string]any) { delete(i, "format") }), "make no sense"},
		"a version that is none":  {info(func(i map[string]any) { version(i)["version"] = "../x" }), "no version"},
		"a version with no index": {info(func(i map[string]any) { delete(version(i)["blobs"].(map[string]any), version(i)["version"].(string)) }), "lacks its own index"},
		"a blob that is none":     {info(func(i map[string]any) { version(i)["blobs"].(map[string]any)["sha256:../../../x"] = 1 }), "makes no sense"},
		"a negative size":         {info(func(i map[string]any) { version(i)["blobs"].(map[string]any)[digest("layer")] = -1 }), "makes no sense"},
		"a size too large":        {info(func(i map[string]any) { version(i)["blobs"].(map[string]any)[digest("layer")] = 1 << 40 }), "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := backup.Check(bytes.NewReader(tarOf(t, c.change(slices.Clone(ms)))))
			is := backup.ErrDamaged
			if name == "a newer format" {
				is = backup.ErrNewer
			}
			if !errors.Is(err, is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if find(ms, "checksums") != len(ms)-1 {
		t.Error("checksums are not the last")
	}
	for name, b := range map[string][]byte{"nothing": nil, "no tar": bytes.Repeat([]byte("no tar"), 1000)} {
		if _, err := backup.Check(bytes.NewReader(b)); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := tarOf(t, ms)
	if _, err := backup.Check(bytes.NewReader(append(b, make([]byte, 9000)...))); err != nil {
		t.Error("a last block that is filled up:", err)
	}
	if _, err := backup.Check(bytes.NewReader(append(b, "x"...))); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("something behind it: %v", err)
	}
}

// version is the first version of an Info.
func version(i map[string]any) map[string]any {
	f := i["functions"].([]any)[0].(map[string]any)
	return f["versions"].([]any)[0].(map[string]any)
}

func FuzzCheck(f *testing.F) {
	t := &testing.T{}
	f.Add([]byte{})
	f.Add(tarOf(t, []member{{name: "backup.json", text: []byte(`{"format":1,"store_bytes":1}`), typ: tar.TypeReg}, {name: "store.snapshot", text: []byte("x"), typ: tar.TypeReg}, {name: "checksums", typ: tar.TypeReg}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := backup.Check(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNewer) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		// What is taken can be opened and is the same.
		path := filepath.Join(t.TempDir(), "b.tar")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		opened, err := backup.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		n, err := io.Copy(io.Discard, opened.Store())
		if err != nil || n != info.StoreBytes {
			t.Errorf("the store has %d bytes of %d: %v", n, info.StoreBytes, err)
		}
	})
}
