package gateway

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A package's preinst would run while dpkg unpacks it, and programs of the
// gateway do not run on this machine. So it is taken out and runs in the
// gateway, before the package is configured: at a first installation it is
// there to look after what an older version left.

// withoutPreinst writes a package again without its preinst, which is
// returned, and without compression.
func withoutPreinst(ctx context.Context, deb, to string) (preinst []byte, err error) {
	control, err := output(ctx, "dpkg-deb", "--ctrl-tarfile", deb)
	if err != nil {
		return nil, err
	}
	var kept bytes.Buffer
	out := tar.NewWriter(&kept)
	for in := tar.NewReader(bytes.NewReader(control)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the control files of %s: %w", deb, err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		if filepath.Clean(h.Name) == "preinst" {
			preinst = content
			continue
		}
		if err := errors.Join(out.WriteHeader(h), write(out, content)); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	f, err := os.Create(to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	files, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = errors.Join(
		write(f, []byte("!<arch>\n")),
		member(f, "debian-binary", strings.NewReader("2.0\n")),
		member(f, "control.tar", &kept),
		member(f, "data.tar", files),
		cmd.Wait(),
	)
	return preinst, err
}

// member appends a member to an archive in the format of ar, whose header
// tells the size before the content.
func member(f *os.File, name string, content io.Reader) error {
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	header := func(size int64) []byte {
		return fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", name, 0, 0, 0, 0o100644, size)
	}
	if err := write(f, header(0)); err != nil {
		return err
	}
	size, err := io.Copy(f, content)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(header(size), start); err != nil {
		return err
	}
	if size%2 == 1 { // members begin at even offsets
		return write(f, []byte("\n"))
	}
	return nil
}

func write(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}
