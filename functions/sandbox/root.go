package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountPoints exist in every root: what the container and its cells mount on.
var mountPoints = []string{"proc", "dev", "dev/shm", "tmp", "app", "edgefn", "run/edgefn", "run/secrets", "etc", "var"}

// etcFiles are what a host root takes from the node's own /etc.
var etcFiles = []string{
	"etc/ld.so.cache", "etc/localtime", "etc/mime.types", "etc/services", "etc/protocols",
	"etc/alternatives", "etc/ssl/certs", "etc/ssl/openssl.cnf", "etc/ca-certificates.conf", "etc/python3", "etc/python3.11",
}

// usrLinks are the folders that are links into /usr, or folders of their own
// on an older system.
var usrLinks = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

const users = "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"

// writeSkeletons makes the lowest layers of the two kinds of root: "bare" for
// an image of its own and "host" for the node's /usr.
func writeSkeletons(dir string) error {
	for _, kind := range []string{"bare", "host"} {
		root := filepath.Join(dir, kind)
		if err := os.RemoveAll(root); err != nil {
			return err
		}
		for _, d := range mountPoints {
			if err := mkdirAll(filepath.Join(root, d)); err != nil {
				return err
			}
		}
		for name, text := range map[string]string{
			"etc/hosts": "", "etc/resolv.conf": "", "etc/hostname": "edgefn\n",
			"etc/passwd": users, "etc/group": "root:x:0:\nnogroup:x:65534:\n", "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		} {
			if err := writeFile(filepath.Join(root, name), []byte(text)); err != nil {
				return err
			}
		}
		if err := os.Symlink("/tmp", filepath.Join(root, "var/tmp")); err != nil {
			return err
		}
	}
	host := filepath.Join(dir, "host")
	if err := mkdirAll(filepath.Join(host, "usr")); err != nil {
		return err
	}
	for _, name := range usrLinks {
		if err := copyLinkOrDir("/"+name, filepath.Join(host, name)); err != nil {
			return err
		}
	}
	for _, name := range etcFiles {
		if err := copyTree("/"+name, filepath.Join(host, name)); err != nil {
			return fmt.Errorf("copy /%s: %w", name, err)
		}
	}
	return nil
}

// hostMounts maps the node's /usr, and /bin and its like where they are
// folders of their own.
func hostMounts() []specs.Mount {
	ms := []specs.Mount{readOnly("/usr", "/usr")}
	for _, name := range usrLinks {
		if fi, err := os.Lstat("/" + name); err == nil && fi.IsDir() {
			ms = append(ms, readOnly("/"+name, "/"+name))
		}
	}
	return ms
}

// readOnly maps a folder or file. What restricts the source's own mount must be
// among the options: nobody in a user namespace can take it off.
func readOnly(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind", "ro", "nosuid", "nodev"}, options...)}
}

// mountExecutable makes dir a mount of its own from which programs can be run:
// a system's /run mostly is none.
func mountExecutable(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_NOEXEC == 0 {
		return nil
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, "")
}

func copyLinkOrDir(from, to string) error {
	fi, err := os.Lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return mkdirAll(to)
}

// copyTree copies files, folders and links that everybody may read; what is
// not there or not for everybody is passed over.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		dest := filepath.Join(to, strings.TrimPrefix(path, from))
		switch fi, err := d.Info(); {
		case err != nil:
			return err
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := mkdirAll(filepath.Dir(dest)); err != nil {
				return err
			}
			// A link to outside what is copied is replaced by what it means.
			if !strings.HasPrefix(resolve(path, target), "/usr/") && !strings.HasPrefix(resolve(path, target), from) {
				return copyOne(path, dest)
			}
			return os.Symlink(target, dest)
		case fi.IsDir():
			return mkdirAll(dest)
		case fi.Mode().IsRegular() && fi.Mode()&0o004 != 0:
			return copyOne(path, dest)
		}
		return nil
	})
}

func resolve(link, target string) string {
	if filepath.IsAbs(target) {
		return filepath.Clean(target)
	}
	return filepath.Join(filepath.Dir(link), target)
}

func copyOne(from, to string) error {
	b, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a link to nowhere
	}
	if err != nil {
		return err
	}
	if err := mkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	return writeFile(to, b)
}

// mkdirAll and writeFile make what every user may read, whatever the umask:
// the sandbox's users are strangers to the host.
func mkdirAll(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // see above
}

func writeFile(name string, b []byte) error {
	if err := os.WriteFile(name, b, 0o644); err != nil { //nolint:gosec // see above
		return err
	}
	return os.Chmod(name, 0o644) //nolint:gosec // see above
}

// lowerDirs returns the folders that a snapshot's read-only view is made of,
// top first, so that the root is one overlay and not one over another.
func lowerDirs(ms []mount.Mount) ([]string, error) {
	if len(ms) != 1 {
		return nil, fmt.Errorf("snapshot has %d mounts, expected 1", len(ms))
	}
	switch m := ms[0]; m.Type {
	case "bind":
		return []string{m.Source}, nil
	case "overlay":
		for _, o := range m.Options {
			if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return strings.Split(dirs, ":"), nil
			}
		}
	}
	return nil, fmt.Errorf("snapshot of type %q cannot be a root: the overlayfs snapshotter is needed", ms[0].Type)
}

// mountRoot mounts the overlay of layers (top first) at target, read-only.
func mountRoot(target string, layers []string) error {
	if err := mkdirAll(target); err != nil {
		return err
	}
	m := mount.Mount{Type: "overlay", Source: "edgefn", Options: []string{"ro", "nosuid", "nodev", "lowerdir=" + strings.Join(layers, ":")}}
	if err := mount.All([]mount.Mount{m}, target); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	return nil
}
