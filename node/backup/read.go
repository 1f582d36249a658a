package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Bounds of what is read of a backup.
const (
	maxMember  = 8<<30 - 1 // bytes of one member: what the tar's header can say
	maxText    = 32 << 20  // bytes of the members that are held in memory
	maxMembers = 1 << 20
)

// section is where a member's content is in the file.
type section struct{ at, size int64 }

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err //nolint:wrapcheck // a reader hands on what it wraps
}

// Check reads a backup to the end of r and makes sure that all of it is there,
// as it was written. It changes nothing. The errors of r are handed on.
func Check(r io.Reader) (Info, error) {
	c, err := check(r)
	return c.info, err
}

// checker reads a backup.
type checker struct {
	in       *counter
	err      error // of reading, which is no fault of the backup
	info     Info
	blobs    map[string]int64 // of info
	sections map[string]section
	sums     bytes.Buffer // what the checksums must be
}

func check(r io.Reader) (*checker, error) {
	c := &checker{sections: map[string]section{}}
	c.in = &counter{r: readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if err != nil && !errors.Is(err, io.EOF) {
			c.err = err
		}
		return n, err //nolint:wrapcheck // a reader hands on what it wraps
	})}
	err := c.read()
	if c.err != nil {
		err = fmt.Errorf("read backup: %w", c.err)
	}
	return c, err
}

// damaged says where a backup is not as it was written.
func (c *checker) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %w", ErrDamaged, c.in.n, fmt.Errorf(format, args...))
}

func (c *checker) read() error {
	tr := tar.NewReader(c.in)
	for last := ""; ; {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && c.in.n == 0:
			return c.damaged("it is empty")
		case last != "" && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
			return c.damaged("it is cut short behind %s", last)
		case err != nil && last == "":
			return c.damaged("it is no tar: %w", err)
		case err != nil:
			return c.damaged("behind %s: %w", last, err)
		}
		if err := c.member(h, tr, last); err != nil {
			return err
		}
		if last = h.Name; last == sumsName {
			break
		}
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		return c.damaged("there is something behind its end")
	}
	// Programs that write a tar to a device fill its last block up.
	rest := make([]byte, 32<<10)
	for {
		n, err := c.in.Read(rest)
		if len(bytes.Trim(rest[:n], "\x00")) > 0 {
			return c.damaged("there is something behind its end")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.damaged("%w", err)
		}
	}
}

// member reads one member, which comes behind the one named last.
func (c *checker) member(h *tar.Header, r io.Reader, last string) error {
	if err := c.expect(h, last); err != nil {
		return err
	}
	c.sections[h.Name] = section{c.in.n, h.Size}
	sum := sha256.New()
	var text bytes.Buffer
	w := io.Writer(sum)
	if h.Name == infoName || h.Name == sumsName {
		w = io.MultiWriter(sum, &text)
	}
	if n, err := io.Copy(w, r); err != nil || n != h.Size {
		return c.damaged("%s is cut short: %d of %d bytes: %w", h.Name, n, h.Size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	got := digestOf(sum)
	switch {
	case h.Name == infoName:
		if err := json.Unmarshal(text.Bytes(), &c.info); err != nil {
			return c.damaged("%s: %w", infoName, err)
		}
		if err := c.info.validate(); err != nil {
			return err
		}
		c.blobs = c.info.blobs()
	case h.Name == sumsName:
		return c.finish(text.Bytes())
	case strings.HasPrefix(h.Name, blobsDir) && got != h.Name[len(blobsDir):]:
		return c.damaged("%s does not have the digest of its name", h.Name)
	}
	fmt.Fprintf(&c.sums, "%s  %s\n", got, h.Name)
	return nil
}

// expect checks the header of a member.
func (c *checker) expect(h *tar.Header, last string) error {
	digits, isBlob := strings.CutPrefix(h.Name, blobsDir)
	blob := "sha256:" + digits
	var limit int64 = maxMember
	switch {
	case last == "" && h.Name != infoName:
		return c.damaged("it begins with %.100q and not with %s: it is no backup of a node", h.Name, infoName)
	case last == infoName && h.Name != storeName:
		return c.damaged("%.100q is where %s should be", h.Name, storeName)
	case h.Name == infoName || h.Name == layoutName || h.Name == indexName || h.Name == sumsName:
		limit = maxText
	case h.Name == storeName:
		if h.Size != c.info.StoreBytes {
			return c.damaged("%s has %d bytes and not %d", storeName, h.Size, c.info.StoreBytes)
		}
	case isBlob && isDigest(blob):
		if size, ok := c.blobs[blob]; !ok || size != h.Size {
			return c.damaged("blob %s of %d bytes is not in %s", blob, h.Size, infoName)
		}
	default:
		return c.damaged("%.100q is nothing that a backup has", h.Name)
	}
	if _, twice := c.sections[h.Name]; twice {
		return c.damaged("%s is there twice", h.Name)
	}
	if h.Typeflag != tar.TypeReg || len(h.PAXRecords) > 0 {
		return c.damaged("%s is no plain file", h.Name)
	}
	if h.Size > limit {
		return c.damaged("%s has %d bytes, at most %d are possible", h.Name, h.Size, limit)
	}
	if len(c.sections) >= maxMembers {
		return c.damaged("it has more than %d members", maxMembers)
	}
	return nil
}

// finish compares the checksums, and whether all is there that Info names.
func (c *checker) finish(sums []byte) error {
	if !bytes.Equal(sums, c.sums.Bytes()) {
		want := strings.Split(c.sums.String(), "\n")
		for i, line := range strings.Split(string(sums), "\n") {
			if i >= len(want) || line != want[i] {
				_, name, _ := strings.Cut(line, "  ")
				return c.damaged("the checksum of %.100q does not match", name)
			}
		}
		return c.damaged("its checksums do not match")
	}
	for d := range c.blobs {
		if _, ok := c.sections[blobName(d)]; !ok {
			return c.damaged("blob %s is not there", d)
		}
	}
	return nil
}

func blobName(digest string) string { return blobsDir + strings.TrimPrefix(digest, "sha256:") }

// File is a backup on disk, checked.
type File struct {
	Info Info

	f        *os.File
	sections map[string]section
}

// Open opens a backup and checks all of it. progress is called with how many
// bytes were read so far, each megabyte or so; nil: it is not.
func Open(path string, progress func(bytes int64)) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open backup: %w", err)
	}
	c, err := check(measured(f, progress))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{Info: c.info, f: f, sections: c.sections}, nil
}

// Close closes the file.
func (b *File) Close() error {
	if err := b.f.Close(); err != nil {
		return fmt.Errorf("close backup: %w", err)
	}
	return nil
}

// Store is the copy of the store.
func (b *File) Store() io.Reader { return b.member(storeName) }

func (b *File) member(name string) io.Reader {
	s := b.sections[name]
	return io.NewSectionReader(b.f, s.at, s.size)
}

// writeImage writes a tar of an OCI layout of one version, without the blobs
// that have been written before.
func (b *File) writeImage(w io.Writer, v Version, written map[string]bool) error {
	tw := tar.NewWriter(w)
	index, err := indexOf([]descriptor{{MediaType: indexType, Digest: v.Version, Size: v.Blobs[v.Version]}})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{layoutName, []byte(layoutText)}, {indexName, index}} {
		if err := addFile(tw, strings.TrimPrefix(f.name, imagesDir), int64(len(f.text)), time.Time{}, bytes.NewReader(f.text)); err != nil {
			return err
		}
	}
	for d, size := range v.Blobs {
		if written[d] {
			continue
		}
		if err := addFile(tw, strings.TrimPrefix(blobName(d), imagesDir), size, time.Time{}, b.member(blobName(d))); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("end the tar: %w", err)
	}
	return nil
}

// measured is r with its progress told.
func measured(r io.Reader, progress func(bytes int64)) io.Reader {
	if progress == nil {
		return r
	}
	var n, told int64
	return readerFunc(func(p []byte) (int, error) {
		k, err := r.Read(p)
		if n += int64(k); n-told >= 1<<20 {
			told = n
			progress(n)
		}
		return k, err //nolint:wrapcheck // a reader hands on what it wraps
	})
}
