package cross

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// spool is a file without a name: what is in it goes with the process. It is
// safe for concurrent readers.
type spool struct {
	file *os.File
	size int64
}

// newSpool makes a spool of what fill writes.
func newSpool(fill func(io.Writer) error) (*spool, error) {
	f, err := os.CreateTemp("", "edgefn-layer-")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = fill(f)
	}
	s := &spool{file: f}
	if err == nil {
		s.size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *spool) open() io.ReadCloser {
	return io.NopCloser(io.NewSectionReader(s.file, 0, s.size))
}

// layer is a compressed layer in a spool. It is a v1.Layer, through
// partial.CompressedToLayer.
type layer struct {
	*spool
	digest, diffID v1.Hash
	media          types.MediaType
}

// Digest is of the compressed bytes.
func (l *layer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID is the digest of the uncompressed bytes.
func (l *layer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// Compressed reads the layer.
func (l *layer) Compressed() (io.ReadCloser, error) { return l.open(), nil }

// Size is that of the compressed bytes.
func (l *layer) Size() (int64, error) { return l.size, nil }

// MediaType says how it is compressed.
func (l *layer) MediaType() (types.MediaType, error) { return l.media, nil }

// newLayer writes a tree as a layer. The same tree gives the same bytes.
func newLayer(ctx context.Context, t tree) (*layer, error) {
	packed, plain := sha256.New(), sha256.New()
	s, err := newSpool(func(w io.Writer) error {
		zw := gzip.NewWriter(io.MultiWriter(w, packed))
		tw := tar.NewWriter(io.MultiWriter(zw, plain))
		for _, e := range t {
			if err := errors.Join(ctx.Err(), writeEntry(tw, e)); err != nil {
				return err
			}
		}
		return errors.Join(tw.Close(), zw.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	return &layer{spool: s, digest: hashOf(packed), diffID: hashOf(plain), media: types.OCILayer}, nil
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}
}

func writeEntry(tw *tar.Writer, e entry) error {
	h := &tar.Header{Name: e.path, Mode: 0o644, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Size: e.size}
	switch {
	case e.kind == fs.ModeDir:
		h.Name, h.Mode, h.Typeflag = e.path+"/", 0o755, tar.TypeDir
	case e.kind == fs.ModeSymlink:
		h.Mode, h.Typeflag, h.Linkname = 0o777, tar.TypeSymlink, e.link
	case e.exec:
		h.Mode = 0o755
	}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", e.path, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	r, err := e.open()
	if err != nil {
		return err
	}
	n, err := io.Copy(tw, r)
	if errors.Is(err, tar.ErrWriteTooLong) || (err == nil && n < e.size) {
		err = fmt.Errorf("%s changed while it was read; build again", e.path)
	}
	return errors.Join(err, r.Close())
}
