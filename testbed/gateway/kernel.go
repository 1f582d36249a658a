package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kernelSuite is the first whose kernel has CONFIG_GPIO_SIM; those of bookworm
// and trixie have not.
const (
	kernelSuite   = "trixie-backports"
	kernelPackage = "linux-image-" + arch
)

var (
	// rootModules are loaded before anything of Debian's runs: what it takes to
	// mount the root, and the network.
	rootModules = []string{"virtio_blk", "ext4", "virtio_net"}
	// guestModules are what the machine needs then: Debian's own services,
	// containers, and the simulated hardware.
	guestModules = []string{
		"autofs4", "overlay", "veth", "bridge", "loop", "tun",
		"gpio-sim", "i2c-dev", "vhci-hcd", "i2c-tiny-usb", "ds2482", "w1_therm", "cuse",
	}
)

// kernel is an extracted kernel.
type kernel struct {
	root    string // of its files
	version string // as uname tells it
	image   string
	modules string // the folder of the version, below root
}

// fetchKernel resolves what the suite's kernel is today (a suite drops the
// kernels before it), downloads and extracts it.
func fetchKernel(ctx context.Context, m mirror, cache, root string) (kernel, error) {
	a, err := newAPT(ctx, filepath.Join(cache, "apt-kernel"), m.debian+" "+kernelSuite)
	if err != nil {
		return kernel{}, err
	}
	names, err := kernelPackages(ctx, a)
	if err != nil {
		return kernel{}, err
	}
	debs, err := a.download(ctx, names)
	if err != nil {
		return kernel{}, err
	}
	if err := mergedUsr(root); err != nil {
		return kernel{}, err
	}
	for _, deb := range debs {
		if _, err := output(ctx, "dpkg-deb", "--extract", deb, root); err != nil {
			return kernel{}, err
		}
	}
	return findKernel(ctx, root)
}

// kernelPackages follows the dependencies of the kernel's package to others
// that carry a part of it, the way it is split being different per release.
func kernelPackages(ctx context.Context, a apt) ([]string, error) {
	names := []string{kernelPackage}
	seen := map[string]bool{kernelPackage: true, "linux-base": true} // the latter is a tool
	for i := 0; i < len(names); i++ {
		out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", names[i])
		if err != nil {
			return nil, err
		}
		for dependency := range strings.SplitSeq(field(string(out), "Depends"), ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(dependency), " ")
			if strings.HasPrefix(name, "linux-") && !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// findKernel looks at an extracted kernel, old layout (/boot) or new.
func findKernel(ctx context.Context, root string) (kernel, error) {
	versions, err := os.ReadDir(filepath.Join(root, "lib/modules"))
	if err != nil {
		return kernel{}, fmt.Errorf("look for the kernel: %w", err)
	}
	if len(versions) != 1 {
		return kernel{}, fmt.Errorf("look for the kernel: %d versions in %s", len(versions), root)
	}
	k := kernel{root: root, version: versions[0].Name()}
	k.modules = filepath.Join(root, "lib/modules", k.version)
	for _, image := range []string{filepath.Join(k.modules, "vmlinuz"), filepath.Join(root, "boot", "vmlinuz-"+k.version)} {
		if _, err := os.Stat(image); err == nil {
			k.image = image
		}
	}
	if k.image == "" {
		return kernel{}, fmt.Errorf("the kernel %s has no image in %s", k.version, root)
	}
	_, err = output(ctx, "depmod", "--basedir", root, k.version)
	return k, err
}

// load returns the files of modules and of those that they depend on, in the
// order to load them; what is built into the kernel has no file.
func (k kernel) load(ctx context.Context, names ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, name := range names {
		out, err := output(ctx, "modprobe", "--dirname", k.root, "--set-version", k.version, "--show-depends", name)
		if err != nil {
			return nil, fmt.Errorf("the kernel %s has no %s: %w", k.version, name, err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "insmod" && !seen[f[1]] {
				seen[f[1]] = true
				files = append(files, f[1])
			}
		}
	}
	return files, nil
}

// install puts the kernel's modules for the guest into a root, with the tables
// that modprobe reads.
func (k kernel) install(ctx context.Context, root string) error {
	files, err := k.load(ctx, append(rootModules, guestModules...)...)
	if err != nil {
		return err
	}
	for _, name := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo", "config"} {
		files = append(files, filepath.Join(k.modules, name))
	}
	to := filepath.Join(root, "usr/lib/modules", k.version)
	for _, from := range files {
		rest, err := filepath.Rel(k.modules, from)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) && filepath.Base(from) == "config" {
			continue // older packages have it in /boot
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rest)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, rest), content, 0o644); err != nil {
			return err
		}
	}
	_, err = output(ctx, "depmod", "--basedir", root, k.version)
	return err
}

// mergedUsr makes the links with which Debian's packages expect a root, before
// any of them is unpacked.
func mergedUsr(root string) error {
	for _, dir := range []string{"bin", "sbin", "lib"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", dir), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	return nil
}
