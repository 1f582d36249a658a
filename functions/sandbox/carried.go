package sandbox

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

//go:embed carried
var carried embed.FS

// writeInit puts the edgefn-init that this binary carries into dir/bin, under
// both of its names.
func writeInit(dir string) error {
	b, err := carried.ReadFile("carried/edgefn-init-" + runtime.GOARCH)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this edgefn was built without edgefn-init for %s: build it with make build", runtime.GOARCH)
	}
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil { //nolint:gosec // read inside every sandbox
		return err
	}
	path := filepath.Join(bin, "edgefn-init")
	if err := os.WriteFile(path+".new", b, 0o755); err != nil { //nolint:gosec // run inside every sandbox
		return err
	}
	if err := os.Chmod(path+".new", 0o755); err != nil { //nolint:gosec // whatever the umask
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	ctl := filepath.Join(bin, "edgefn-ctl")
	_ = os.Remove(ctl)
	return os.Symlink("edgefn-init", ctl)
}
