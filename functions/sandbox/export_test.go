package sandbox_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/sandbox"
)

// exporter reads images: a Host, or the files of one that has ended.
type exporter interface {
	Blobs(ctx context.Context, version string) (map[string]int64, error)
	OpenBlob(ctx context.Context, digest string) (io.ReadCloser, error)
}

// wantImage checks that all of an image can be read.
func wantImage(t *testing.T, e exporter, version string, want []string) {
	t.Helper()
	blobs, err := e.Blobs(t.Context(), version)
	must(t, err)
	if len(blobs) != len(want) {
		t.Errorf("blobs are %v, want %v", blobs, want)
	}
	for _, d := range want {
		r, err := e.OpenBlob(t.Context(), d)
		must(t, err)
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		must(t, errors.Join(err, r.Close()))
		if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != d || n != blobs[d] {
			t.Errorf("blob %s is %s and has %d bytes, want %d", d, got, n, blobs[d])
		}
	}
}

// An image is read as it was imported, while the host runs and from its files
// when it does not; what is not there is named.
func TestExport(t *testing.T) {
	cfg := config(t)
	_, err := sandbox.OpenImages(t.Context(), cfg)
	if !errors.Is(err, sandbox.ErrNoContainerd) {
		t.Errorf("of a node that never ran: %v", err)
	}
	h, stop := open(t, cfg)
	fn := functions.Defaults()
	fn.Name, fn.Runtime, fn.Handler = "one", functions.Go, []string{"."}
	image, err := io.ReadAll(probeImage(t, &fn))
	must(t, err)
	all := digests(t, image)
	one, err := h.Import(t.Context(), strings.NewReader(string(image)))
	must(t, err)
	wantImage(t, h, one.Digest, all)
	for _, blob := range all {
		if _, err := h.Blobs(t.Context(), blob); blob != one.Digest && !errors.Is(err, sandbox.ErrNoImage) {
			t.Errorf("blob %s, which is no version: %v", blob, err)
		}
	}
	stop()
	h.Close(context.Background())

	files, err := sandbox.OpenImages(t.Context(), cfg)
	must(t, err)
	defer files.Close()
	wantImage(t, files, one.Digest, all)
	absent := "sha256:" + strings.Repeat("0", 64)
	if _, err := files.Blobs(t.Context(), absent); !errors.Is(err, sandbox.ErrNoImage) || !strings.Contains(err.Error(), absent) {
		t.Errorf("an image that is not there: %v", err)
	}
	var layer string
	blobs, err := files.Blobs(t.Context(), one.Digest)
	must(t, err)
	for d, n := range blobs {
		if layer == "" || n > blobs[layer] {
			layer = d
		}
	}
	must(t, os.Remove(filepath.Join(cfg.DataDir, "containerd/io.containerd.content.v1.content/blobs/sha256", strings.TrimPrefix(layer, "sha256:"))))
	if _, err := files.Blobs(t.Context(), one.Digest); !errors.Is(err, sandbox.ErrIncomplete) || !strings.Contains(err.Error(), layer) {
		t.Errorf("with a layer discarded: %v", err)
	}
}
