package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/edgefn/edgefn/cluster/store"
)

// Names of the members.
const (
	infoName   = "backup.json"
	storeName  = "store.snapshot"
	imagesDir  = "images/"
	layoutName = imagesDir + "oci-layout"
	indexName  = imagesDir + "index.json"
	blobsDir   = imagesDir + "blobs/sha256/"
	sumsName   = "checksums"
)

// layoutText is the file oci-layout, image-spec's image-layout.md.
const layoutText = `{"imageLayoutVersion":"1.0.0"}`

// indexType is the media type of an image index.
const indexType = "application/vnd.oci.image.index.v1+json"

// Images reads the images of a node. Its errors say which blob is not there.
type Images interface {
	// Blobs returns the digest and size of everything that the image of a version
	// is made of.
	Blobs(ctx context.Context, version string) (map[string]int64, error)
	// OpenBlob reads one of them.
	OpenBlob(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Source is what is backed up.
type Source struct {
	Node     string // its name
	Edgefn   string // version of the program
	Store    store.Store
	Images   Images // nil: no images, for the reason NoImages
	NoImages string
	// Dir is a folder with room for a copy of the store, which is there as long
	// as Write runs and has no name.
	Dir string
	Now time.Time
}

// Write writes a backup to w. On an error what was written is of no use, and can
// be told from a whole one. Images that cannot be read are left out: Info says
// which and why. The node goes on meanwhile; a deploy at the same time may or
// may not be in the backup.
func Write(ctx context.Context, w io.Writer, s Source) (Info, error) {
	snapshotter, ok := s.Store.(store.Snapshotter)
	if !ok {
		return Info{}, errors.New("back up the node: its store cannot be copied")
	}
	// The size of a member stands before it, and the store is not to wait for a
	// slow w: so its copy is on the disk first.
	spool, err := os.CreateTemp(s.Dir, "backup-*")
	if err != nil {
		return Info{}, fmt.Errorf("make a file for the copy of the store: %w", err)
	}
	defer spool.Close() //nolint:errcheck // it has no name
	if err := os.Remove(spool.Name()); err != nil {
		return Info{}, fmt.Errorf("make a file for the copy of the store: %w", err)
	}
	before, err := functionsIn(ctx, s.Store)
	if err != nil {
		return Info{}, fmt.Errorf("back up the node: %w", err)
	}
	info := Info{Format: Format, Node: s.Node, Edgefn: s.Edgefn, Time: s.Now.UTC().Truncate(time.Second)}
	if info.Revision, err = snapshotter.Snapshot(ctx, spool); err != nil {
		return Info{}, fmt.Errorf("back up the node: %w", err)
	}
	if info.StoreBytes, err = spool.Seek(0, io.SeekCurrent); err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return Info{}, fmt.Errorf("read the copy of the store: %w", err)
	}
	// What was deployed meanwhile may be in the copy.
	after, err := functionsIn(ctx, s.Store)
	if err != nil {
		return Info{}, fmt.Errorf("back up the node: %w", err)
	}
	info.Functions = merge(after, before)
	if err := s.describe(ctx, &info); err != nil {
		return Info{}, err
	}
	m := newMembers(w, info.Time)
	err = m.write(ctx, &info, spool, s.Images)
	if err != nil {
		return Info{}, fmt.Errorf("write backup: %w", err)
	}
	return info, nil
}

// describe finds the images of all versions.
func (s *Source) describe(ctx context.Context, info *Info) error {
	for i := range info.Functions {
		for j := range info.Functions[i].Versions {
			v := &info.Functions[i].Versions[j]
			if s.Images == nil {
				v.Missing = s.NoImages
				continue
			}
			blobs, err := s.Images.Blobs(ctx, v.Version)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				v.Missing = err.Error()
				continue
			}
			v.Blobs = blobs
			for _, size := range blobs {
				v.Bytes += size
			}
		}
	}
	for _, size := range info.blobs() {
		info.ImageBytes += size
	}
	return nil
}

// members writes the members of a backup and their checksums.
type members struct {
	tw   *tar.Writer
	time time.Time
	sums bytes.Buffer
}

func newMembers(w io.Writer, t time.Time) *members { return &members{tw: tar.NewWriter(w), time: t} }

func (m *members) write(ctx context.Context, info *Info, snapshot io.Reader, images Images) error {
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", infoName, err)
	}
	if err := m.add(infoName, int64(len(text)), bytes.NewReader(text)); err != nil {
		return err
	}
	if err := m.add(storeName, info.StoreBytes, contextReader(ctx, snapshot)); err != nil {
		return err
	}
	blobs := info.blobs()
	if len(blobs) > 0 {
		index, err := layoutIndex(info)
		if err != nil {
			return err
		}
		if err := m.add(layoutName, int64(len(layoutText)), strings.NewReader(layoutText)); err != nil {
			return err
		}
		if err := m.add(indexName, int64(len(index)), bytes.NewReader(index)); err != nil {
			return err
		}
	}
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		r, err := images.OpenBlob(ctx, d)
		if err != nil {
			return fmt.Errorf("%w: has its version been removed meanwhile? Try again", err)
		}
		err = m.add(blobsDir+strings.TrimPrefix(d, "sha256:"), blobs[d], contextReader(ctx, r))
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	if err := m.add(sumsName, int64(m.sums.Len()), bytes.NewReader(m.sums.Bytes())); err != nil {
		return err
	}
	if err := m.tw.Close(); err != nil {
		return fmt.Errorf("end the tar: %w", err)
	}
	return nil
}

// add writes a member of that many bytes of r.
func (m *members) add(name string, size int64, r io.Reader) error {
	if size > maxMember {
		return fmt.Errorf("%s is %d bytes long, at most %d are possible", name, size, int64(maxMember))
	}
	sum := sha256.New()
	if err := addFile(m.tw, name, size, m.time, io.TeeReader(r, sum)); err != nil {
		return err
	}
	if got := digestOf(sum); strings.HasPrefix(name, blobsDir) && got != name[len(blobsDir):] {
		return fmt.Errorf("blob sha256:%s is damaged: it is sha256:%s", name[len(blobsDir):], got)
	}
	if name != sumsName {
		fmt.Fprintf(&m.sums, "%s  %s\n", digestOf(sum), name)
	}
	return nil
}

// addFile adds a file of that many bytes of r to a tar.
func addFile(tw *tar.Writer, name string, size int64, t time.Time, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: t, Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if _, err := io.CopyN(tw, r, size); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}

func digestOf(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// descriptor is one of an OCI layout's, image-spec's descriptor.md.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layoutIndex is the index.json of a layout with all versions of an Info that
// have an image; each is named FUNCTION-DIGITS for those who look into it.
func layoutIndex(info *Info) ([]byte, error) {
	var ds []descriptor
	for _, f := range info.Functions {
		for _, v := range f.Versions {
			if v.Missing == "" {
				name := f.Name + "-" + strings.TrimPrefix(v.Version, "sha256:")[:12]
				ds = append(ds, descriptor{indexType, v.Version, v.Blobs[v.Version], map[string]string{"org.opencontainers.image.ref.name": name}})
			}
		}
	}
	return indexOf(ds)
}

func indexOf(ds []descriptor) ([]byte, error) {
	b, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, indexType, ds})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", indexName, err)
	}
	return b, nil
}

// contextReader is r until ctx is done.
func contextReader(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

// readerFunc is a function as an io.Reader.
type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
