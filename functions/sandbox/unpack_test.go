package sandbox_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/sandbox"
	"github.com/edgefn/edgefn/testbed/settled/powercut"
)

// Functions whose files are the same share their layers in containerd. What is
// removed with one of them must not be what another one runs from.
func TestRemoveLeavesSharedLayers(t *testing.T) {
	h := host(t, nil)
	named := func(name string) sandbox.Spec {
		return probeSpec(t, h, func(f *functions.Function) { f.Name = name })
	}
	first, second, third := named("first"), named("second"), named("third")
	a := run(t, h, first)
	must(t, a.Check(t.Context()))
	b := run(t, h, second) // finds the layer unpacked
	must(t, b.Check(t.Context()))
	must(t, h.Remove(t.Context(), first.Version))
	for _, tt := range []struct {
		name string
		p    *probe
	}{
		{"a sandbox that is there", b},
		{"a new sandbox", run(t, h, second)},
		{"the first sandbox", run(t, h, third)},
		{"a sandbox of what is removed", a},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := tt.p.do(t, "read", unreadFile); err != nil {
				t.Error(err)
			}
		})
	}
}

// reads checks that an image has its files.
func reads(t *testing.T, h *sandbox.Host, spec sandbox.Spec) {
	t.Helper()
	got, _, err := run(t, h, spec).do(t, "read", unreadFile)
	must(t, err)
	if got["text"] != unreadText {
		t.Errorf("%s reads %q, want %q", unreadFile, got["text"], unreadText)
	}
}

// closing closes a host at the end of a test, or before.
func closing(t *testing.T, cfg sandbox.Config) (h *sandbox.Host, end func()) {
	t.Helper()
	h, stop := open(t, cfg)
	ended := false
	end = func() {
		if !ended {
			ended = true
			stop()
			h.Close(context.Background())
		}
	}
	t.Cleanup(end)
	return h, end
}

// What Import has taken is there after a loss of power, whole.
func TestImportOutlastsPowerCut(t *testing.T) {
	if why := powercut.Why(); why != "" {
		t.Skip(why)
	}
	cfg := config(t)
	disk, err := powercut.Create(t.TempDir(), 256<<20)
	must(t, err)
	t.Cleanup(func() { must(t, disk.Close()) })
	must(t, os.Mkdir(cfg.DataDir, 0o755))
	must(t, disk.Mount(cfg.DataDir))
	h, end := closing(t, cfg)
	first := probeSpec(t, h, nil)
	second := probeSpec(t, h, func(f *functions.Function) { f.Name = "second" }) // its layer is unpacked
	disk.PowerOff(0)
	end()
	_, _, err = disk.Cut(rand.New(rand.NewPCG(1, 1)), 0)
	must(t, err)
	must(t, disk.Mount(cfg.DataDir))
	h, _ = closing(t, cfg)
	reads(t, h, first)
	reads(t, h, second)
}

// Files that may not have reached the disk before a loss of power are not
// trusted after it.
func TestUnfinishedIsUnpackedAnew(t *testing.T) {
	cfg := config(t)
	h, end := closing(t, cfg)
	spec := probeSpec(t, h, nil)
	client, err := containerd.New(filepath.Join(cfg.RunDir, "containerd", "c.sock"))
	must(t, err)
	defer client.Close()
	ns, err := client.NamespaceService().List(t.Context())
	must(t, err)
	ctx := namespaces.WithNamespace(t.Context(), ns[0])
	sn := client.SnapshotService("overlayfs")
	must(t, sn.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		i.Labels = nil
		_, err := sn.Update(ctx, i, "labels")
		return err
	}))
	end()
	files, err := filepath.Glob(filepath.Join(cfg.DataDir, "containerd/*/snapshots/*/fs", unreadFile))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("unpacked files %v, want one", files)
	}
	must(t, os.Truncate(files[0], 0))
	h, _ = closing(t, cfg)
	reads(t, h, spec)
}

// A blob whose file was lost is missing, whatever containerd's records say, and
// is taken when it is sent again.
func TestLostBlobIsMissing(t *testing.T) {
	cfg := config(t)
	h, _ := closing(t, cfg)
	fn := functions.Defaults()
	fn.Name, fn.Runtime, fn.Handler = "probe", functions.Go, []string{"."}
	image, err := io.ReadAll(probeImage(t, &fn))
	must(t, err)
	img, err := h.Import(t.Context(), bytes.NewReader(image))
	must(t, err)
	for _, d := range digests(t, image) {
		file := filepath.Join(cfg.DataDir, "containerd/io.containerd.content.v1.content/blobs/sha256", strings.TrimPrefix(d, "sha256:"))
		must(t, os.Remove(file))
		missing, err := h.Missing(t.Context(), img.Digest, digests(t, image))
		must(t, err)
		if !slices.Equal(missing, []string{d}) {
			t.Errorf("%v is missing, want %s", missing, d)
		}
		if _, err := h.Import(t.Context(), without(t, image, func(b string) bool { return b != d })); err != nil {
			t.Errorf("%s is sent again: %v", d, err)
		}
	}
	reads(t, h, sandbox.Spec{Function: &fn, Version: img.Digest, Argv: []string{"/app/function"}})
}
