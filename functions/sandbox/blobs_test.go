package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/sandbox"
)

// without copies a tar of an OCI layout and leaves blobs out.
func without(t *testing.T, image []byte, left func(digest string) bool) io.Reader {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for tr := tar.NewReader(bytes.NewReader(image)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Typeflag == tar.TypeReg && strings.HasPrefix(h.Name, "blobs/sha256/") && left("sha256:"+path.Base(h.Name)) {
			continue
		}
		must(t, tw.WriteHeader(h))
		_, err = io.Copy(tw, tr)
		must(t, err)
	}
	must(t, tw.Close())
	return &out
}

// digests are the blobs of a tar of an OCI layout.
func digests(t *testing.T, image []byte) []string {
	t.Helper()
	var all []string
	without(t, image, func(d string) bool {
		all = append(all, d)
		return false
	})
	if len(all) != 4 {
		t.Fatalf("image has blobs %v, want a layer, a configuration, a manifest and an index", all)
	}
	return all
}

// Blobs that are here need not be sent, and stay until the rest has come; an
// image of which something is nowhere is not kept.
func TestImportOfWhatIsMissing(t *testing.T) {
	h := host(t, nil)
	ctx := t.Context()
	var images [2][]byte
	for i, name := range []string{"one", "two"} {
		fn := functions.Defaults()
		fn.Name, fn.Runtime, fn.Handler = name, functions.Go, []string{"."}
		b, err := io.ReadAll(probeImage(t, &fn))
		must(t, err)
		images[i] = b
	}
	all := digests(t, images[1])

	missing, err := h.Missing(ctx, all[0], all)
	must(t, err)
	if !slices.Equal(missing, all) {
		t.Fatalf("of an image that was never here %v is missing, want all of %v", missing, all)
	}
	one, err := h.Import(ctx, bytes.NewReader(images[0]))
	must(t, err)

	// The two have one layer; their function is in the rest.
	missing, err = h.Missing(ctx, all[0], all)
	must(t, err)
	shared := func(d string) bool { return !slices.Contains(missing, d) }
	if len(missing) != 3 {
		t.Fatalf("%v is missing, want all but the layer", missing)
	}
	must(t, h.Remove(ctx, one.Digest))
	two, err := h.Import(ctx, without(t, images[1], shared))
	if err != nil {
		t.Fatalf("what is shared has gone with its image while the rest was on its way: %v", err)
	}
	missing, err = h.Missing(ctx, two.Digest, all)
	must(t, err)
	if len(missing) != 0 {
		t.Errorf("of an image that is kept %v is missing", missing)
	}
	if _, err := h.Import(ctx, without(t, images[1], func(string) bool { return true })); err != nil {
		t.Errorf("import again with no blob at all: %v", err)
	}

	must(t, h.Remove(ctx, two.Digest))
	for what, left := range map[string]func(string) bool{
		"what was shared": shared,
		"all":             func(string) bool { return true },
	} {
		if _, err := h.Import(ctx, without(t, images[1], left)); !errors.Is(err, sandbox.ErrIncomplete) {
			t.Errorf("without %s: got %v, want ErrIncomplete", what, err)
		}
		if there, err := h.Has(ctx, two.Digest); err != nil || there {
			t.Errorf("without %s: it is kept (%v)", what, err)
		}
	}
	if _, err := h.Missing(ctx, two.Digest, []string{"sha256:xyz"}); !errors.Is(err, sandbox.ErrBadImage) {
		t.Errorf("a digest that is none: %v", err)
	}
}

// What has arrived whole of an upload that broke off is not sent again.
func TestImportBreaksOff(t *testing.T) {
	h := host(t, nil)
	fn := functions.Defaults()
	fn.Name, fn.Runtime, fn.Handler = "one", functions.Go, []string{"."}
	image, err := io.ReadAll(probeImage(t, &fn))
	must(t, err)
	all := digests(t, image)
	ctx, cancel := context.WithCancel(t.Context())
	broken := errors.New("the line is dead")
	n := 0
	cut, err := io.ReadAll(without(t, image, func(string) bool {
		n++
		return n > 2
	}))
	must(t, err)
	// A tar ends with two empty blocks, which are left out here.
	_, err = h.Import(ctx, io.MultiReader(bytes.NewReader(cut[:len(cut)-1024]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, broken
	})))
	if err == nil {
		t.Fatal("half an image was imported")
	}
	// Removing an image has containerd collect what nobody keeps.
	other, version := emptyImage(t, runtime.GOARCH)
	_, err = h.Import(t.Context(), other)
	must(t, err)
	must(t, h.Remove(t.Context(), version))
	missing, err := h.Missing(t.Context(), all[0], all)
	must(t, err)
	if !slices.Equal(missing, all[2:]) {
		t.Errorf("%v is missing, want the two that did not arrive of %v", missing, all)
	}
	if _, err := h.Import(t.Context(), without(t, image, func(d string) bool { return !slices.Contains(missing, d) })); err != nil {
		t.Errorf("the rest: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// emptyImage is a tar of an image with no files for a processor, and its version.
func emptyImage(t *testing.T, arch string) (image io.Reader, version string) {
	t.Helper()
	idx := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: empty.Image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
	})
	idx = mutate.Annotations(idx, map[string]string{functions.ImageLabel: "{}"}).(v1.ImageIndex)
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, p.AppendIndex(idx))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	must(t, tw.AddFS(os.DirFS(dir)))
	must(t, tw.Close())
	digest, err := idx.Digest()
	must(t, err)
	return &b, digest.String()
}

// An image that this machine cannot run is refused, and not kept.
func TestImportForAnotherPlatform(t *testing.T) {
	h := host(t, nil)
	image, version := emptyImage(t, "s390x")
	_, err := h.Import(t.Context(), image)
	if !errors.Is(err, sandbox.ErrPlatform) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), h.Platform()) {
		t.Errorf("got %v, want ErrPlatform with both platforms", err)
	}
	if there, err := h.Has(t.Context(), version); err != nil || there {
		t.Errorf("it is kept (%v)", err)
	}
}
