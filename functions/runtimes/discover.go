package runtimes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/edgefn/edgefn/functions"
)

// Static is the version of a runtime that needs nothing of the node: its
// programs bring what they need.
const Static = "static"

const (
	versionTimeout = 10 * time.Second // a card that is busy at boot is slow
	waitDelay      = time.Second
)

// Discover runs the interpreters found in path, a list of folders as in PATH,
// and returns the version of each runtime that is there. It looks into the
// folders that a sandbox with the root "host" has, so path is that of the
// node's service and not of a developer's shell.
func Discover(ctx context.Context, path string) map[functions.Runtime]string {
	found := map[functions.Runtime]string{functions.Go: Static, functions.Exec: Static}
	for runtime, program := range map[functions.Runtime]string{functions.Python: "python3", functions.Node: "node"} {
		file, err := Find(path, program)
		if err != nil {
			continue
		}
		if v, err := version(ctx, file); err == nil {
			found[runtime] = v
		}
	}
	return found
}

// Find returns the path of a program in a list of folders as in PATH. Its error
// is exec.ErrNotFound if it is in none.
func Find(path, program string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // the node's working directory is no place for programs
		}
		file := filepath.Join(dir, program)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file, nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // such as a folder that may not be read
		}
	}
	return "", fmt.Errorf("%s is in none of %s: %w", program, path, exec.ErrNotFound)
}

// version asks a program for its version: "Python 3.11.2", "v20.20.2".
func version(ctx context.Context, file string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "--version")
	cmd.Env = []string{"LC_ALL=C.UTF-8"}
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", file, err)
	}
	return parseVersion(string(out))
}

func parseVersion(out string) (string, error) {
	for word := range strings.FieldsSeq(out) {
		if v, err := semver.NewVersion(strings.TrimRight(word, "+")); err == nil {
			return v.String(), nil
		}
	}
	return "", fmt.Errorf("no version in %q", out)
}

// Satisfies returns nil if a version that Discover found fits the constraint of
// a manifest's runtime_version, or why it does not. An empty constraint fits
// every version.
func Satisfies(constraint, version string) error {
	if constraint == "" {
		return nil
	}
	c, err := semver.NewConstraint(constraint)
	if err != nil {
		return fmt.Errorf("runtime_version %q is no constraint such as \">=3.9\": %w", constraint, err)
	}
	if version == Static {
		return errors.New("runtime_version is for runtimes that the node provides; this one's programs bring what they need: leave it out")
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("version %q of the runtime: %w", version, err)
	}
	if ok, reasons := c.Validate(v); !ok {
		return fmt.Errorf("version %s is here, %s is needed: %w", version, constraint, errors.Join(reasons...))
	}
	return nil
}
