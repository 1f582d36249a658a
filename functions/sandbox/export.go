package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxBlobs bounds the blobs of one version. An image has three for each
// platform, one more, and its layers.
const maxBlobs = 4096

// contentDir is where containerd's content store is below its root.
const contentDir = "io.containerd.content.v1.content"

// Blobs returns the digest and size of everything that the image of a version is
// made of, the version's own index among them. ErrNoImage: the image is not
// there. ErrIncomplete: it is, and a blob of it, which the error names, is not,
// as where containerd discards layers that it has unpacked.
func (h *Host) Blobs(ctx context.Context, version string) (map[string]int64, error) {
	there, err := h.Has(ctx, version)
	if err != nil {
		return nil, fmt.Errorf("find image: %w", err)
	}
	if !there {
		return nil, fmt.Errorf("%w: %s", ErrNoImage, version)
	}
	return blobsOf(h.context(ctx), h.client.ContentStore(), version)
}

// OpenBlob reads a blob of a version that Blobs named. The caller closes it.
func (h *Host) OpenBlob(ctx context.Context, blob string) (io.ReadCloser, error) {
	return openBlob(h.context(ctx), h.client.ContentStore(), blob)
}

// blobsOf walks the image of a version.
func blobsOf(ctx context.Context, p content.Provider, version string) (map[string]int64, error) {
	index, err := lookUp(ctx, p, version)
	if errors.Is(err, ErrIncomplete) {
		return nil, fmt.Errorf("%w: %s", ErrNoImage, version)
	}
	if err != nil {
		return nil, err
	}
	index.MediaType = ocispec.MediaTypeImageIndex
	blobs := map[string]int64{}
	note := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, known := blobs[d.Digest.String()]; known {
			return nil, images.ErrSkipDesc
		}
		there, err := lookUp(ctx, p, d.Digest.String())
		switch {
		case err != nil:
			return nil, err
		case there.Size != d.Size:
			return nil, fmt.Errorf("%w: blob %s is %d bytes long and not %d", ErrBadImage, d.Digest, there.Size, d.Size)
		case len(blobs) == maxBlobs:
			return nil, fmt.Errorf("%w: it has more than %d blobs", ErrBadImage, maxBlobs)
		case (images.IsIndexType(d.MediaType) || images.IsManifestType(d.MediaType)) && d.Size > maxManifest:
			return nil, fmt.Errorf("%w: %s is %d bytes long", ErrBadImage, d.MediaType, d.Size)
		}
		blobs[d.Digest.String()] = d.Size
		return nil, nil
	})
	if err := images.Walk(ctx, images.Handlers(note, images.ChildrenHandler(p)), index); err != nil {
		return nil, fmt.Errorf("read image %s: %w", version, err)
	}
	return blobs, nil
}

// lookUp describes a blob, but for its type. ErrIncomplete: it is not there.
func lookUp(ctx context.Context, p content.Provider, blob string) (ocispec.Descriptor, error) {
	d, err := digest.Parse(blob)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: blob %q: %w", ErrBadImage, blob, err)
	}
	r, err := p.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		return ocispec.Descriptor{}, fmt.Errorf("%w: blob %s is not there", ErrIncomplete, d)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look for blob %s: %w", d, err)
	}
	defer r.Close()
	return ocispec.Descriptor{Digest: d, Size: r.Size()}, nil
}

// blobReader reads a blob from its beginning.
type blobReader struct {
	io.Reader
	at content.ReaderAt
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return r.at.Close() }

func openBlob(ctx context.Context, p content.Provider, blob string) (io.ReadCloser, error) {
	d, err := digest.Parse(blob)
	if err != nil {
		return nil, fmt.Errorf("%w: blob %q: %w", ErrBadImage, blob, err)
	}
	at, err := p.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: blob %s is not there", ErrIncomplete, d)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return &blobReader{content.NewReader(at), at}, nil
}

// folder is the folder of a content store, read with no containerd. The store of
// containerd's own library tries the disk out as it opens it.
type folder string

// ReaderAt implements content.Provider.
func (f folder) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("read blob: %w", err)
	}
	return local.OpenReader(filepath.Join(string(f), "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()))
}

// Images reads the images of a node that does not run.
type Images struct {
	client    *containerd.Client // nil: no containerd answers
	namespace string
	stores    []content.Provider // asked in turn
}

// OpenImages opens the images of the node with this config, of which the socket
// and the data folder count. It starts no containerd, changes nothing and leaves
// sandboxes of a node that was killed to the next one: the content of a private
// containerd is read from its folder, that of another one through its socket.
// ErrNoContainerd: there is neither.
func OpenImages(ctx context.Context, cfg Config) (*Images, error) {
	h := &Images{namespace: namespaceOf(cfg.DataDir)}
	root := filepath.Join(cfg.DataDir, "containerd", contentDir)
	if _, err := os.Stat(filepath.Join(root, "blobs")); err == nil {
		h.stores = append(h.stores, folder(root))
	}
	address := cfg.Socket
	if address == "" && answers(SystemSocket) {
		address = SystemSocket
	}
	if address != "" {
		client, err := containerd.New(address, containerd.WithDefaultNamespace(h.namespace), containerd.WithTimeout(10*time.Second))
		if err == nil {
			_, err = client.Version(ctx)
		}
		switch {
		case err == nil:
			h.client = client
			h.stores = append(h.stores, client.ContentStore())
		case len(h.stores) == 0:
			return nil, fmt.Errorf("%w at %s: %w", ErrNoContainerd, address, err)
		}
	}
	if len(h.stores) == 0 {
		return nil, fmt.Errorf("%w: there is nothing in %s, and none runs at %s", ErrNoContainerd, root, SystemSocket)
	}
	return h, nil
}

// Close lets go of containerd.
func (h *Images) Close() {
	if h.client != nil {
		_ = h.client.Close()
	}
}

// Blobs is Host.Blobs.
func (h *Images) Blobs(ctx context.Context, version string) (map[string]int64, error) {
	return blobsOf(h.context(ctx), h, version)
}

// OpenBlob is Host.OpenBlob.
func (h *Images) OpenBlob(ctx context.Context, blob string) (io.ReadCloser, error) {
	return openBlob(h.context(ctx), h, blob)
}

func (h *Images) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, h.namespace)
}

// ReaderAt implements content.Provider.
func (h *Images) ReaderAt(ctx context.Context, d ocispec.Descriptor) (at content.ReaderAt, err error) {
	for _, s := range h.stores {
		if at, err = s.ReaderAt(ctx, d); err == nil || !errdefs.IsNotFound(err) {
			return at, err
		}
	}
	return nil, err
}
