package cross

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	requirementsName = "requirements.txt"
	wheelsName       = "wheels" // folder of wheels beside it: the build is offline then
	depsName         = ".deps"  // where they are in the image; the runtime's shim looks there
)

// glibcVersions are those that wheels are made for, the oldest first: the wheel
// that asks for the least runs on the most gateways. 2.36 is Debian 12's.
var glibcVersions = []int{5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36}

// wheelTags returns the platform tags (PEP 425, PEP 600, PEP 656) of wheels that
// run on p, the best first.
func wheelTags(p Platform, musl bool) []string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm/v7": "armv7l", "arm/v6": "armv6l"}[strings.TrimPrefix(p.String(), "linux/")]
	var tags []string
	if musl {
		for _, minor := range []int{1, 2} {
			tags = append(tags, fmt.Sprintf("musllinux_1_%d_%s", minor, arch))
		}
		return append(tags, "linux_"+arch)
	}
	for _, minor := range glibcVersions {
		tags = append(tags, fmt.Sprintf("manylinux_2_%d_%s", minor, arch))
		if old := map[int]string{5: "1", 12: "2010", 17: "2014"}[minor]; old != "" {
			tags = append(tags, fmt.Sprintf("manylinux%s_%s", old, arch))
		}
	}
	tags = append(tags, "linux_"+arch)
	if p.Variant == "v7" {
		tags = append(tags, "linux_armv6l") // which it runs, if there is nothing better
	}
	return tags
}

// pythonDeps installs requirements.txt for one platform into dir/.deps. It
// reports whether the same serves every platform. Wheels are chosen for that
// platform and its python; markers in requirements (PEP 508) mean this machine,
// since that is how pip reads them.
func (b *builder) pythonDeps(ctx context.Context, p Platform, musl bool, dir string) (universal bool, err error) {
	target := filepath.Join(dir, depsName)
	if err := os.MkdirAll(target, 0o700); err != nil {
		return false, err
	}
	if err := b.findPip(ctx); err != nil {
		return false, err
	}
	to := p.String()
	// In an image of its own is a python that nobody here knows.
	version := ""
	if b.f.Image == "" && b.o.Python != "" {
		version = minorVersion(b.o.Python)
		to += " and python " + version
	}
	b.o.Progress(fmt.Sprintf("python: installing %s for %s", requirementsName, to))
	argv := []string{
		b.python, "-m", "pip", "install", "--target", target, "--requirement", requirementsName, "--only-binary=:all:",
		"--no-compile", "--no-input", "--disable-pip-version-check", "--quiet", "--retries=2", "--timeout=30", "--implementation=cp",
	}
	for _, tag := range wheelTags(p, musl) {
		argv = append(argv, "--platform="+tag)
	}
	if version != "" {
		argv = append(argv, "--python-version="+version)
	}
	offline := b.has(wheelsName)
	if offline {
		argv = append(argv, "--no-index", "--find-links="+wheelsName)
	}
	env := []string{"PIP_USER=0", "PIP_REQUIRE_VIRTUALENV=0", "PIP_TARGET=", "PIP_PREFIX=", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8"}
	if _, err := b.tool(ctx, b.o.Dir, env, argv...); err != nil {
		if why := b.missingWheels(p, musl, version); offline && why != "" && ctx.Err() == nil {
			return false, fmt.Errorf("install %s for %s: %s", requirementsName, to, why)
		}
		hint := "packages must have a wheel for this platform; put what is not on the index into a wheels/ or vendor/ folder"
		if offline {
			hint = "with a wheels/ folder the network is not used: it must hold a wheel of each package, also of those that packages need"
		}
		return false, fmt.Errorf("install %s for %s: %s: %w", requirementsName, to, hint, err)
	}
	return cleanDeps(target)
}

// minorVersion is what wheels are made for: 3.11 of 3.11.2.
func minorVersion(v string) string {
	parts := strings.SplitN(v, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// findPip looks for pip once, and says what will be used.
func (b *builder) findPip(ctx context.Context) error {
	if b.python != "" {
		return nil
	}
	if b.o.Offline && !b.has(wheelsName) {
		return fmt.Errorf("%s needs the package index, and the build is offline; put the wheels into a %s/ folder (python3 -m pip download -d %s -r %s)",
			requirementsName, wheelsName, wheelsName, requirementsName)
	}
	out, err := "", error(nil)
	// The system's own python is of the kind that gateways have; without its pip,
	// the one in PATH.
	for _, b.python = range []string{"/usr/bin/python3", "python3"} {
		out, err = b.tool(ctx, b.o.Dir, nil, b.python, "-m", "pip", "--version")
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s needs pip, which does not run here; install it (apt install python3-pip), or put the packages into a vendor/ folder: %w", requirementsName, err)
	}
	b.o.Progress("python: " + out)
	return nil
}

// cleanDeps removes what differs between two installations of the same
// packages, and reports whether they are the same for every platform: whether
// each wheel says so.
func cleanDeps(target string) (universal bool, err error) {
	universal = true
	root, err := os.OpenRoot(target)
	if err != nil {
		return false, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	var gone []string
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, in := path.Base(p), path.Base(path.Dir(p))
		info := strings.HasSuffix(in, ".dist-info")
		switch {
		case d.IsDir() && base == "__pycache__":
			gone = append(gone, p)
			return fs.SkipDir
		case info && (base == "RECORD" || base == "REQUESTED" || base == "direct_url.json"):
			// RECORD has the digests of scripts, which name this machine's python.
			gone = append(gone, p)
		case info && base == "WHEEL":
			text, err := root.ReadFile(p)
			if err != nil {
				return err
			}
			universal = universal && anyPlatform(string(text))
		case strings.HasPrefix(p, "bin/") && d.Type().IsRegular():
			script, err := isPythonScript(root, p)
			if err != nil {
				return err
			}
			if script {
				gone = append(gone, p)
			}
		}
		return nil
	})
	for _, p := range gone {
		err = errors.Join(err, root.RemoveAll(p))
	}
	if err == nil {
		// Scripts alone leave an empty folder behind; one with programs stays.
		if names, rerr := fs.ReadDir(root.FS(), "bin"); rerr == nil && len(names) == 0 {
			err = root.Remove("bin")
		}
	}
	return universal, err
}

// anyPlatform reads a wheel's WHEEL file (PEP 427): its tags end in -any if it
// has no compiled code.
func anyPlatform(wheel string) bool {
	tags := 0
	for line := range strings.Lines(wheel) {
		tag, ok := strings.CutPrefix(strings.TrimSpace(line), "Tag:")
		if !ok {
			continue
		}
		tags++
		if !strings.HasSuffix(tag, "-any") {
			return false
		}
	}
	return tags > 0
}

// isPythonScript reports whether a file begins with #! and a python: pip writes
// the path of this machine's there.
func isPythonScript(root *os.Root, p string) (bool, error) {
	f, err := root.Open(p)
	if err != nil {
		return false, err
	}
	head, err := io.ReadAll(io.LimitReader(f, 256))
	line, _, _ := bytes.Cut(head, []byte("\n"))
	// A path that is too long for #! stands in a shell line below: '''exec'.
	script := bytes.HasPrefix(line, []byte("#!")) && (bytes.Contains(line, []byte("python")) || bytes.Contains(head, []byte("'''exec'")))
	return script, errors.Join(err, f.Close())
}
