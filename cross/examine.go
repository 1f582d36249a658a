package cross

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxBaseFiles bounds the files of a base.
const maxBaseFiles = 400000

// privateByDesign are paths that distributions keep from ordinary users and
// that no function needs. They and what is in them may be unreadable; a star
// stands for any text without a slash.
var privateByDesign = []string{
	"root", "lost+found", "tmp", "run", "proc", "sys", "dev", "boot",
	"var/cache", "var/log", "var/spool", "var/tmp", "var/mail", "var/run", "var/empty", "var/lib/apt", "var/lib/dpkg", "var/lib/private",
	"var/lib/systemd", "var/lib/polkit-1", "var/lib/rpm", "var/lib/sss", "var/lib/pam", "var/lib/snapd", "var/backups",
	"var/lib/chrony", "var/lib/NetworkManager",
	"etc/shadow*", "etc/gshadow*", "etc/.pwd.lock", "etc/security/opasswd", "etc/ssl/private", "etc/sudoers*", "etc/polkit-1",
	"etc/crypttab", "etc/cron*", "etc/at.deny", "etc/default/useradd", "etc/ssh", "etc/audit*", "etc/libaudit.conf", "etc/tcb",
	"etc/pki/*/private", "etc/grub.d", "etc/ppp", "etc/chatscripts", "etc/wpa_supplicant", "etc/NetworkManager",
	"usr/lib/*/utempter", "usr/libexec/utempter", "usr/share/polkit-1", "usr/lib/polkit-1",
}

// examiner follows a base's layers, the lowest first, to the files that are
// there in the end.
type examiner struct {
	files map[string]seen
	most  int64
}

type seen struct {
	mode fs.FileMode
	size int64
}

func newExaminer(most int64) *examiner { return &examiner{files: map[string]seen{}, most: most} }

const (
	whiteout = ".wh."         // before the name of what a layer removes
	opaque   = ".wh..wh..opq" // a layer removes all that is below of this folder
)

// layer applies one layer.
func (x *examiner) layer(l *layer) (err error) {
	r, err := uncompressed(l)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	below := x.files
	now := map[string]seen{}
	var read int64
	headers := 0
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		if read += h.Size; read > x.most {
			return fmt.Errorf("unpacks to more than %s, which is the most for an image", mebibytes(x.most))
		}
		if headers++; headers+len(below) > maxBaseFiles {
			return fmt.Errorf("has more than %d files", maxBaseFiles)
		}
		name := path.Clean("/" + h.Name)[1:]
		dir, file := path.Split(name)
		switch {
		case name == "":
			continue
		case file == opaque:
			remove(below, strings.TrimSuffix(dir, "/"), false)
			continue
		case strings.HasPrefix(file, whiteout):
			remove(below, dir+strings.TrimPrefix(file, whiteout), true)
			continue
		}
		s := seen{mode: h.FileInfo().Mode(), size: h.Size}
		if h.Typeflag == tar.TypeLink {
			target := path.Clean("/" + h.Linkname)[1:]
			s = below[target]
			if t, ok := now[target]; ok {
				s = t
			}
			s.size = 0
		}
		now[name] = s
	}
	for name, s := range now {
		if !s.mode.IsDir() && below[name].mode.IsDir() {
			remove(below, name, false)
		}
		below[name] = s
	}
	return nil
}

// remove takes out what is in a folder, and with self the path itself.
func remove(files map[string]seen, name string, self bool) {
	s, there := files[name]
	if self {
		delete(files, name)
	}
	if there && !s.mode.IsDir() {
		return
	}
	for f := range files {
		if name == "" || strings.HasPrefix(f, name+"/") {
			delete(files, f)
		}
	}
}

func (x *examiner) size() int64 {
	var sum int64
	for _, s := range x.files {
		sum += s.size
	}
	return sum
}

// musl reports whether the C library is musl: its loader is /lib/ld-musl-ARCH.so.1.
func (x *examiner) musl() bool {
	for name := range x.files {
		if strings.HasPrefix(path.Base(name), "ld-musl-") {
			return true
		}
	}
	return false
}

// unreadable returns an error that names what the sandbox's user cannot read.
func (x *examiner) unreadable() error {
	var bad []string
	for name, s := range x.files {
		// What would change its user has no effect in a sandbox, readable or not.
		special := s.mode&(fs.ModeSetuid|fs.ModeSetgid) != 0
		if (s.mode.IsRegular() && !special || s.mode.IsDir()) && !readableMode(s.mode) && !private(name) {
			bad = append(bad, name)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	names := make([]string, 0, 3)
	for _, n := range bad[:min(3, len(bad))] {
		names = append(names, fmt.Sprintf("/%s (%v)", n, x.files[n].mode))
	}
	return fmt.Errorf("%d of its files cannot be read by the sandbox's unprivileged user, first %s; make them readable where the image is made: chmod o+r, and o+x for folders",
		len(bad), strings.Join(names, ", "))
}

// private reports whether a path, or a folder it is in, is private by design.
func private(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if slices.ContainsFunc(privateByDesign, func(p string) bool {
			ok, err := path.Match(p, name)
			return ok && err == nil
		}) {
			return true
		}
	}
	return false
}
