package gateway

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

// makeDeb builds a package of the given control files and one file of its own.
func makeDeb(t *testing.T, control map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, content := range control {
		path := filepath.Join(root, "DEBIAN", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(root, "usr/share/sample/file")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("odd"), 0o644)); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(dir, "sample.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", root, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return deb
}

const sampleControl = "Package: sample\nVersion: 1\nArchitecture: arm64\nMaintainer: nobody <nobody@example.org>\nDescription: sample\n"

func TestWithoutPreinst(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb here")
	}
	const preinst, postinst = "#!/bin/sh\nexit 7\n", "#!/bin/sh\nexit 0\n"
	deb := makeDeb(t, map[string]string{"control": sampleControl, "preinst": preinst, "postinst": postinst})
	to := filepath.Join(t.TempDir(), "out.deb")
	got, err := withoutPreinst(t.Context(), deb, to)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != preinst {
		t.Errorf("preinst %q", got)
	}
	control, err := exec.Command("dpkg-deb", "--ctrl-tarfile", to).Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for in := tar.NewReader(bytes.NewReader(control)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			names = append(names, filepath.Base(h.Name))
		}
	}
	if diff := cmp.Diff([]string{"control", "postinst"}, names); diff != "" {
		t.Error(diff)
	}
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "--extract", to, root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(root, "usr/share/sample/file")); err != nil || string(b) != "odd" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestOffer(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("no dpkg-deb here")
	}
	deb := makeDeb(t, map[string]string{"control": sampleControl})
	dir := t.TempDir()
	if err := offer(t.Context(), dir, map[string]string{"sample": deb, "other": "never read"}, []string{"sample"}); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(dir, "Packages"))
	if err != nil {
		t.Fatal(err)
	}
	if got := field(string(index), "Filename"); got != "./sample.deb" {
		t.Errorf("file %q in\n%s", got, index)
	}
	if got := field(string(index), "Package"); got != "sample" {
		t.Errorf("package %q in\n%s", got, index)
	}
	if got := len(field(string(index), "SHA256")); got != 64 {
		t.Errorf("a check sum of %d digits", got)
	}
}

func TestWriteArchive(t *testing.T) {
	to := filepath.Join(t.TempDir(), "initramfs")
	err := writeArchive(to, map[string]File{
		"init":            {[]byte("program"), 0o755},
		"overlay/etc/key": {[]byte("secret"), 0o600},
		"overlay/etc/ln":  {[]byte("../key"), fs.ModeSymlink},
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for in := cpio.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname+string(content))
	}
	want := []string{
		"-rwxr-xr-x init program",
		"drwxr-xr-x overlay ",
		"drwxr-xr-x overlay/etc ",
		"-rw------- overlay/etc/key secret",
		"Lrwxrwxrwx overlay/etc/ln ../key",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestField(t *testing.T) {
	stanza := "Package: a\nDepends: b (= 1), c | d\nDepends-Not: e\n"
	if got := field(stanza, "Depends"); got != "b (= 1), c | d" {
		t.Errorf("got %q", got)
	}
	if got := field(stanza, "Version"); got != "" {
		t.Errorf("got %q of a field that is not there", got)
	}
}

func TestRecipeFollowsWhatIsInIt(t *testing.T) {
	before, err := recipe()
	if err != nil {
		t.Fatal(err)
	}
	saved := offeredPackages
	defer func() { offeredPackages = saved }()
	offeredPackages = []string{"containerd"}
	after, err := recipe()
	if err != nil {
		t.Fatal(err)
	}
	if before == after || !strings.HasPrefix(after, imagePrefix) {
		t.Errorf("%s became %s", before, after)
	}
}
