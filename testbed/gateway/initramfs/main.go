// Command initramfs is the /init of the emulated gateway: it loads the modules
// that the root file system needs, mounts it, lays this run's files over it
// and becomes the real init. Everything else is Debian's.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	modules = "/modules" // NN-name.ko.xz, in the order to load them
	overlay = "/overlay" // files of this run
	newRoot = "/new"
	device  = "/dev/vda"
)

func main() {
	err := run()
	fmt.Fprintln(os.Stderr, "initramfs:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// run returns only if it failed.
func run() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := openConsole(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := mountRoot(); err != nil {
		return err
	}
	if err := layOver(); err != nil {
		return fmt.Errorf("lay this run's files over the root: %w", err)
	}
	for _, at := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(at, newRoot+at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", at, err)
		}
	}
	program, err := wantedInit(newRoot + "/proc/cmdline")
	if err != nil {
		return err
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	err = unix.Exec(program, []string{program}, []string{"HOME=/", "TERM=linux"})
	return fmt.Errorf("execute %s: %w", program, err)
}

// openConsole gives this process, and the init after it, the console as
// standard streams: the kernel could not, since /dev was empty.
func openConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil && fd != std {
			return fmt.Errorf("use the console: %w", err)
		}
	}
	return nil
}

func loadModules() error {
	files, err := filepath.Glob(modules + "/*")
	if err != nil {
		return err
	}
	for _, f := range files {
		file, err := os.Open(f)
		if err != nil {
			return err
		}
		flags := 0
		if !strings.HasSuffix(f, ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE // needs CONFIG_MODULE_DECOMPRESS
		}
		err = unix.FinitModule(int(file.Fd()), "", flags)
		file.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", f, err)
		}
	}
	return nil
}

// mountRoot waits for the disk, which the kernel finds in its own time.
func mountRoot() error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(device)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for the disk: %w", err)
		}
	}
	if err := unix.Mount(device, newRoot, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return nil
}

// layOver copies the overlay into the root with its modes; what is there
// already is replaced, so that every boot has the run's files.
func layOver() error {
	return filepath.WalkDir(overlay, func(from string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && from == overlay {
			return nil
		}
		if err != nil {
			return err
		}
		to := newRoot + strings.TrimPrefix(from, overlay)
		if entry.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(from)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, info.Mode().Perm())
	})
}

// wantedInit is what init= names on the kernel's command line.
func wantedInit(cmdline string) (string, error) {
	b, err := os.ReadFile(cmdline)
	if err != nil {
		return "", err
	}
	program := "/sbin/init"
	for word := range strings.FieldsSeq(string(b)) {
		if path, ok := strings.CutPrefix(word, "init="); ok {
			program = path
		}
	}
	return program, nil
}
