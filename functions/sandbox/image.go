package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/functions"
)

// maxManifest bounds a manifest or index that is read into memory.
const maxManifest = 4 << 20

// Image is an imported version.
type Image struct {
	Digest   string // of the image index: the version
	Function []byte // JSON of functions.Function
}

func imageName(version string) string { return "edgefn/" + version }

// Import reads a tar of an OCI layout with one image index in it, keeps that
// image and unpacks it. A loss of power after Import takes nothing of it away. Blobs that are here, as Missing tells, may be left out of the tar;
// if one of those is gone, the error is ErrIncomplete. It is safe to import what
// is there already.
func (h *Host) Import(ctx context.Context, r io.Reader) (Image, error) {
	ctx = h.context(ctx)
	// The lease keeps what has arrived from being collected before it has a name.
	ctx, done, err := h.client.WithLease(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("take lease: %w", err)
	}
	defer done(context.WithoutCancel(ctx)) //nolint:errcheck // it ends by itself
	cs := h.client.ContentStore()
	in := &reader{r: r}
	top, err := archive.ImportIndex(ctx, cs, in)
	if err != nil {
		if in.err != nil {
			h.salvage(ctx)
		}
		return Image{}, importError(err)
	}
	var layout ocispec.Index
	if err := readJSON(ctx, cs, top, &layout); err != nil {
		return Image{}, err
	}
	if len(layout.Manifests) != 1 || !images.IsIndexType(layout.Manifests[0].MediaType) {
		return Image{}, fmt.Errorf("%w: its layout must hold one image index", ErrBadImage)
	}
	desc := layout.Manifests[0]
	var index ocispec.Index
	if err := readJSON(ctx, cs, desc, &index); err != nil {
		return Image{}, err
	}
	fn := index.Annotations[functions.ImageLabel]
	if fn == "" {
		return Image{}, fmt.Errorf("%w: its index has no annotation %s: build it with edgefn build", ErrBadImage, functions.ImageLabel)
	}
	img := Image{Digest: desc.Digest.String(), Function: []byte(fn)}
	if err := checkPlatform(index.Manifests, platforms.DefaultSpec()); err != nil {
		return Image{}, err
	}
	var blobs []digest.Digest
	note := images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		blobs = append(blobs, d.Digest)
		return nil, nil
	})
	children := images.SetChildrenMappedLabels(cs, images.FilterPlatforms(images.ChildrenHandler(cs), platforms.All), images.ChildGCLabels)
	if err := images.WalkNotEmpty(ctx, images.Handlers(note, children), desc); err != nil {
		return Image{}, importError(err)
	}
	record := images.Image{Name: imageName(img.Digest), Target: desc}
	_, err = h.client.ImageService().Create(ctx, record)
	known := errdefs.IsAlreadyExists(err)
	if err != nil && !known {
		return Image{}, fmt.Errorf("keep image: %w", err)
	}
	h.letGo(ctx, img.Digest)
	// From here on the image keeps its blobs: what is here now stays.
	for _, d := range blobs {
		there, err := hasBlob(ctx, cs, d)
		if err == nil && !there {
			err = fmt.Errorf("%w: it lacks %s, which is not here either", ErrIncomplete, d)
		}
		if err != nil {
			return Image{}, errors.Join(err, h.Remove(ctx, img.Digest))
		}
	}
	if err := h.settle(ctx, record); err != nil {
		if !known {
			err = errors.Join(err, h.Remove(ctx, img.Digest))
		}
		return Image{}, err
	}
	return img, nil
}

// settle unpacks an image and makes it durable with all its blobs.
func (h *Host) settle(ctx context.Context, record images.Image) error {
	u, err := h.unpack(ctx, record)
	if err != nil {
		if known := importError(err); !errors.Is(known, ErrBadImage) {
			return known
		}
		return err // who knows whose fault
	}
	if u.synced {
		return nil
	}
	return h.sync()
}

// importError says whose fault it is that an image cannot be kept. A full disk
// comes over containerd's socket as text.
func importError(err error) error {
	switch {
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	case strings.Contains(err.Error(), unix.ENOSPC.Error()):
		return fmt.Errorf("keep image: %w: %w", ErrNoSpace, err)
	case errdefs.IsUnavailable(err):
		return fmt.Errorf("keep image: %w: %w", ErrNoContainerd, err)
	}
	return fmt.Errorf("%w: %w", ErrBadImage, err)
}

func readJSON(ctx context.Context, cs content.Store, desc ocispec.Descriptor, v any) error {
	if desc.Size > maxManifest {
		return fmt.Errorf("%w: %s is %d bytes long", ErrBadImage, desc.MediaType, desc.Size)
	}
	b, err := content.ReadBlob(ctx, cs, desc)
	if err != nil {
		return importError(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	return nil
}

// Has reports whether the image of a version is there.
func (h *Host) Has(ctx context.Context, version string) (bool, error) {
	_, err := h.client.ImageService().Get(h.context(ctx), imageName(version))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Remove removes the image of a version. One that is gone is no error.
func (h *Host) Remove(ctx context.Context, version string) error {
	err := h.client.ImageService().Delete(h.context(ctx), imageName(version), images.SynchronousDelete())
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", version, err)
	}
	return nil
}

// layers unpacks the image of a version and returns its folders, top first,
// and its configuration. The view under the name id keeps the folders until
// its snapshot is removed.
func (h *Host) layers(ctx context.Context, version, id string) ([]string, ocispec.ImageConfig, error) {
	var none ocispec.ImageConfig
	record, err := h.client.ImageService().Get(ctx, imageName(version))
	if errdefs.IsNotFound(err) {
		return nil, none, fmt.Errorf("%w: %s", ErrNoImage, version)
	}
	if err != nil {
		return nil, none, fmt.Errorf("find image: %w", err)
	}
	u, err := h.unpack(ctx, record)
	if err != nil {
		return nil, none, err
	}
	dirs, err := h.view(ctx, id, u.snapshot)
	return dirs, u.config, err
}
