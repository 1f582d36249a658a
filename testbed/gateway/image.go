package gateway

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suite    = "bookworm"
	diskSize = "4G" // sparse; what is in use is about 350 MB
)

var (
	// basePackages are installed, with what they depend on.
	basePackages = []string{
		"?essential", "usr-is-merged", "apt", "mount", "systemd", "systemd-sysv", "udev", "dbus", "kmod",
		"iproute2", "openssh-server", "python3",
	}
	// offeredPackages wait, with what they depend on, in the machine's own
	// archive.
	offeredPackages = []string{"containerd", "runc"}
)

//go:embed files
var files embed.FS

// Image is what a gateway boots from. It is never written to.
type Image struct {
	Kernel      string
	Disk        string
	RootModules string // a folder of what the initramfs loads, in order of names
}

func imageAt(dir string) Image {
	return Image{filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "disk"), filepath.Join(dir, "modules")}
}

// Cache is the folder in which images and downloads are kept:
// EDGEFN_TESTBED_CACHE, or edgefn-testbed among the user's caches.
func Cache() (string, error) {
	if dir := os.Getenv("EDGEFN_TESTBED_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for the gateway's image (EDGEFN_TESTBED_CACHE names one): %w", err)
	}
	return filepath.Join(dir, "edgefn-testbed"), nil
}

// Build returns the image of the gateway; it is made if the cache has none of
// today's recipe, which takes minutes, root and a Debian mirror. Builds of
// several processes wait for each other.
func Build(ctx context.Context, log *slog.Logger) (Image, error) {
	cache, err := Cache()
	if err != nil {
		return Image{}, err
	}
	unlock, err := lock(cache)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	name, err := recipe()
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return imageAt(dir), nil
	}
	if os.Geteuid() != 0 {
		return Image{}, errors.New("make the gateway's image: this needs root, once")
	}
	start := time.Now()
	log.Info("making the gateway's image, once", "at", dir)
	work := filepath.Join(cache, "work")
	if err := os.RemoveAll(work); err != nil {
		return Image{}, err
	}
	b := builder{cache: cache, work: work, out: filepath.Join(work, "image"), log: log}
	if err := b.build(ctx); err != nil {
		return Image{}, fmt.Errorf("make the gateway's image (what is there of it: %s): %w", work, err)
	}
	if err := forgetOthers(cache); err != nil {
		return Image{}, err
	}
	if err := os.Rename(b.out, dir); err != nil {
		return Image{}, err
	}
	log.Info("made the gateway's image", "took", time.Since(start).Round(time.Second).String())
	return imageAt(dir), os.RemoveAll(work)
}

const imagePrefix = "image-"

// recipe names an image for everything that decides what is in it but the
// versions that the mirror has on the day.
func recipe() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, arch, suite, diskSize, basePackages, offeredPackages, kernelSuite, rootModules, guestModules)
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(content), content)
		return err
	})
	return imagePrefix + hex.EncodeToString(h.Sum(nil))[:12], err
}

// forgetOthers removes images of other recipes: each takes some hundred MB.
func forgetOthers(cache string) error {
	old, err := filepath.Glob(filepath.Join(cache, imagePrefix+"*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func lock(cache string) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for another build of the gateway's image: %w", err)
	}
	return func() { f.Close() }, nil
}

// builder makes one image.
type builder struct {
	cache string
	work  string
	out   string
	log   *slog.Logger
}

func (b builder) build(ctx context.Context) error {
	m, err := findMirror(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	k, err := fetchKernel(ctx, m, b.cache, filepath.Join(b.work, "kernel"))
	if err != nil {
		return err
	}
	b.log.Info("has a kernel", "version", k.version)
	if err := b.keepKernel(ctx, k); err != nil {
		return err
	}
	root := filepath.Join(b.work, "root")
	if err := b.unpack(ctx, m, root); err != nil {
		return err
	}
	if err := k.install(ctx, root); err != nil {
		return err
	}
	b.log.Info("unpacked")
	image := imageAt(b.out)
	if _, err := output(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, image.Disk, diskSize); err != nil {
		return err
	}
	return b.configure(ctx, image)
}

// keepKernel copies what a boot needs out of the extracted kernel.
func (b builder) keepKernel(ctx context.Context, k kernel) error {
	image := imageAt(b.out)
	if err := copyFile(k.image, image.Kernel); err != nil {
		return err
	}
	modules, err := k.load(ctx, rootModules...)
	if err != nil {
		return err
	}
	if err := os.Mkdir(image.RootModules, 0o755); err != nil {
		return err
	}
	for i, module := range modules {
		if err := copyFile(module, filepath.Join(image.RootModules, fmt.Sprintf("%02d-%s", i, filepath.Base(module)))); err != nil {
			return err
		}
	}
	return nil
}

// unpack downloads the userland and unpacks it into root, and lays into
// root/install what its first boot needs to configure it.
func (b builder) unpack(ctx context.Context, m mirror, root string) error {
	sources := []string{m.debian + " " + suite}
	if m.security != "" {
		sources = append(sources, m.security+" "+suite+"-security")
	}
	a, err := newAPT(ctx, filepath.Join(b.cache, "apt"), sources...)
	if err != nil {
		return err
	}
	base, err := a.closure(ctx, basePackages...)
	if err != nil {
		return err
	}
	all, err := a.closure(ctx, append(basePackages, offeredPackages...)...)
	if err != nil {
		return err
	}
	debs, err := a.download(ctx, all)
	if err != nil {
		return err
	}
	offered := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(base, name) })
	if err := offer(ctx, filepath.Join(root, archive), debs, offered); err != nil {
		return err
	}
	if err := layOutDpkg(root); err != nil {
		return err
	}
	install := filepath.Join(root, "install")
	if err := os.MkdirAll(filepath.Join(install, "preinst"), 0o755); err != nil {
		return err
	}
	stripped := filepath.Join(b.work, "debs")
	if err := os.MkdirAll(stripped, 0o755); err != nil {
		return err
	}
	var ready, versions []string
	for _, name := range base {
		to := filepath.Join(stripped, name+".deb")
		preinst, err := withoutPreinst(ctx, debs[name], to)
		if err != nil {
			return err
		}
		if preinst != nil {
			if err := os.WriteFile(filepath.Join(install, "preinst", name), preinst, 0o755); err != nil {
				return err
			}
		}
		ready = append(ready, to)
		versions = append(versions, filepath.Base(debs[name])+"\n")
	}
	if err := os.WriteFile(filepath.Join(b.out, "packages"), []byte(strings.Join(versions, "")), 0o644); err != nil {
		return err
	}
	// Documentation would be half of the files, and is not read here.
	_, err = output(ctx, "dpkg", append([]string{
		"--root=" + root, "--log=/dev/null", "--force-all", "--force-unsafe-io", "--path-exclude=/usr/share/doc/*",
		"--path-exclude=/usr/share/man/*", "--path-exclude=/usr/share/locale/*", "--unpack",
	}, ready...)...)
	if err != nil {
		return err
	}
	script, err := files.ReadFile("files/install.sh")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(install, "install.sh"), script, 0o755)
}

// layOutDpkg makes an empty root that dpkg of this machine unpacks another
// architecture's packages into.
func layOutDpkg(root string) error {
	if err := mergedUsr(root); err != nil {
		return err
	}
	for _, dir := range []string{"info", "updates"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"status": "", "available": "", "arch": arch + "\n"} {
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// archive is the folder in the gateway that its apt installs from.
const archive = "srv/debian"

// offer makes an archive of packages: their files and an index of them.
func offer(ctx context.Context, dir string, debs map[string]string, names []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index strings.Builder
	for _, name := range names {
		deb := debs[name]
		control, err := output(ctx, "dpkg-deb", "--field", deb)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(deb)), content, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(deb), len(content), sha256.Sum256(content))
	}
	return os.WriteFile(filepath.Join(dir, "Packages"), []byte(index.String()), 0o644)
}

// configured is what the install script prints last.
const configured = "the gateway is configured"

// configure boots the image once to have its packages configured.
func (b builder) configure(ctx context.Context, image Image) error {
	initramfs := filepath.Join(b.work, "initramfs")
	if err := writeInitramfs(ctx, initramfs, image.RootModules, nil); err != nil {
		return err
	}
	console := filepath.Join(b.work, "console.log")
	cmd := qemu(ctx, boot{
		image: image, initramfs: initramfs, console: console, keep: true, cmdline: "init=/install/install.sh",
	})
	b.log.Info("configuring in the emulated machine", "console", console)
	if _, err := outputOf(cmd); err != nil {
		return err
	}
	said, err := os.ReadFile(console)
	if err != nil {
		return err
	}
	if !strings.Contains(string(said), configured) {
		return fmt.Errorf("configure the packages: the machine stopped before the end:\n%s", said[max(0, len(said)-2000):])
	}
	return nil
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}
