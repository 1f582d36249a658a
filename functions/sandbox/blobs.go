package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// holdTime is how long blobs that were told to be here stay for the rest of
// their image to arrive: a slow line may carry a large layer for that long.
const holdTime = 15 * time.Minute

// salvageTime bounds what is done for an upload that broke off.
const salvageTime = 10 * time.Second

// contentType is what blobs are called among the resources of a lease.
const contentType = "content"

// holdLease names the lease on what is here of a version that is being sent.
func holdLease(version string) leases.Lease { return leases.Lease{ID: "edgefn-upload-" + version} }

// Missing returns which blobs of a version, named by their digests, are not
// here. The others are kept for holdTime, or until the version is imported.
func (h *Host) Missing(ctx context.Context, version string, blobs []string) ([]string, error) {
	ctx = h.context(ctx)
	kept, err := h.Has(ctx, version)
	if err != nil {
		return nil, fmt.Errorf("find image: %w", err)
	}
	missing, err := h.missing(ctx, version, blobs, kept)
	if err == nil && kept && len(missing) > 0 {
		missing, err = h.missing(ctx, version, blobs, false) // a blob that is lost keeps none
	}
	if err != nil {
		return nil, err
	}
	for _, b := range missing {
		// A record without a file would have containerd take no other file.
		if err := h.client.ContentStore().Delete(ctx, digest.Digest(b)); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("forget blob %s, whose file is lost: %w", b, err)
		}
	}
	return missing, nil
}

// missing is Missing, and leases what is here unless its image keeps it: a lease
// costs a flush of the disk for each blob.
func (h *Host) missing(ctx context.Context, version string, blobs []string, kept bool) ([]string, error) {
	cs := h.client.ContentStore()
	var missing []string
	leased := kept
	for _, b := range blobs {
		d, err := digest.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("%w: blob %q: %w", ErrBadImage, b, err)
		}
		there, err := hasBlob(ctx, cs, d)
		if there && !kept {
			if !leased {
				if err := h.hold(ctx, version); err != nil {
					return nil, err
				}
				leased = true
			}
			if err := h.client.LeasesService().AddResource(ctx, holdLease(version), leases.Resource{ID: b, Type: contentType}); err != nil {
				return nil, fmt.Errorf("keep blob %s: %w", b, err)
			}
			there, err = hasBlob(ctx, cs, d) // it may have gone before it was kept
		}
		if err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, b)
		}
	}
	return missing, nil
}

// hold takes the lease of a version that is being sent, or takes it anew.
func (h *Host) hold(ctx context.Context, version string) error {
	h.letGo(ctx, version)
	_, err := h.client.LeasesService().Create(ctx, leases.WithID(holdLease(version).ID), leases.WithExpiration(holdTime))
	if err != nil && !errdefs.IsAlreadyExists(err) { // somebody else sends it too
		return fmt.Errorf("take lease: %w", err)
	}
	return nil
}

// letGo ends the lease of hold. One that stays ends by itself.
func (h *Host) letGo(ctx context.Context, version string) {
	if err := h.client.LeasesService().Delete(ctx, holdLease(version)); err != nil && !errdefs.IsNotFound(err) {
		h.log.Debug("lease of an upload stays until it ends by itself", "version", version, "err", err)
	}
}

// reader remembers why it could not be read to its end.
type reader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// salvage keeps the blobs that have arrived whole of an image whose sender broke
// off, for holdTime: it then need not send those again. ctx has the lease of the
// import, which ends with it.
func (h *Host) salvage(ctx context.Context) {
	id, _ := leases.FromContext(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), salvageTime) // the sender's is done
	defer cancel()
	ls := h.client.LeasesService()
	resources, err := ls.ListResources(ctx, leases.Lease{ID: id})
	if err == nil {
		var lease leases.Lease
		if lease, err = ls.Create(ctx, leases.WithRandomID(), leases.WithExpiration(holdTime)); err == nil {
			for _, r := range resources {
				if r.Type == contentType {
					err = errors.Join(err, ls.AddResource(ctx, lease, r))
				}
			}
		}
	}
	if err != nil {
		h.log.Warn("what arrived of an image that broke off is not kept", "err", err)
	}
}

// hasBlob reports whether a blob is here, whole. A loss of power in the middle of
// an import can leave containerd with the record of a blob and no file, since it
// flushes a file before it gives it its name.
func hasBlob(ctx context.Context, cs content.Store, d digest.Digest) (bool, error) {
	r, err := cs.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err == nil && r.Size() > 0 {
		_, err = r.ReadAt(make([]byte, 1), 0)
	}
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for blob %s: %w", d, err)
	}
	return true, r.Close()
}
