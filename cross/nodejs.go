package cross

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	packageName = "package.json"
	modulesName = "node_modules"
)

// lockNames are the lock files that npm ci accepts.
var lockNames = []string{"npm-shrinkwrap.json", "package-lock.json"}

// npmPlan says where a node function's packages come from.
type npmPlan struct {
	install   bool     // npm ci
	universal bool     // what it installs is the same for every platform
	scripts   []string // packages whose install scripts are not run
	optional  []string // those of them that the function can do without
}

// planNode reads package.json and its lock file.
func (b *builder) planNode() (npmPlan, error) {
	text, err := b.root.ReadFile(packageName)
	if errors.Is(err, fs.ErrNotExist) {
		return npmPlan{}, nil // node_modules as it is, or nothing
	}
	if err != nil {
		return npmPlan{}, fmt.Errorf("read %s: %w", packageName, err)
	}
	var pkg struct {
		Dependencies         map[string]string `json:"dependencies"`
		OptionalDependencies map[string]string `json:"optionalDependencies"`
	}
	if err := json.Unmarshal(text, &pkg); err != nil {
		return npmPlan{}, fmt.Errorf("read %s: %w", packageName, err)
	}
	if len(pkg.Dependencies)+len(pkg.OptionalDependencies) == 0 {
		return npmPlan{}, nil
	}
	i := slices.IndexFunc(lockNames, b.has)
	switch {
	case i >= 0:
		return b.readLock(lockNames[i])
	case b.has(modulesName):
		return npmPlan{}, nil
	}
	return npmPlan{}, fmt.Errorf("%s names dependencies, and there is neither a lock file nor %s; run npm install, which writes both", packageName, modulesName)
}

func (b *builder) readLock(name string) (npmPlan, error) {
	text, err := b.root.ReadFile(name)
	if err != nil {
		return npmPlan{}, fmt.Errorf("read %s: %w", name, err)
	}
	var lock struct {
		Version  int `json:"lockfileVersion"`
		Packages map[string]struct {
			OS, CPU, Libc    json.RawMessage
			HasInstallScript bool `json:"hasInstallScript"`
			Dev, Optional    bool
		} `json:"packages"`
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		return npmPlan{}, fmt.Errorf("read %s: %w", name, err)
	}
	plan := npmPlan{install: true, universal: lock.Version >= 2}
	for at, p := range lock.Packages {
		if p.Dev {
			continue
		}
		plan.universal = plan.universal && p.OS == nil && p.CPU == nil && p.Libc == nil
		if p.HasInstallScript && at != "" {
			plan.scripts = append(plan.scripts, strings.TrimPrefix(at, modulesName+"/"))
			if p.Optional {
				plan.optional = append(plan.optional, strings.TrimPrefix(at, modulesName+"/"))
			}
		}
	}
	slices.Sort(plan.scripts)
	return plan, nil
}

// nodeDeps runs npm ci for one platform in a copy of the source in dir. Install
// scripts are not run: they would build for this machine.
func (b *builder) nodeDeps(ctx context.Context, p Platform, musl bool, plan npmPlan, dir string) error {
	if len(plan.scripts) > 0 && !b.warned {
		b.warned = true
		b.o.Progress("node: install scripts are not run, those of " + strings.Join(plan.scripts, ", "))
	}
	b.o.Progress(fmt.Sprintf("node: npm ci for %s", p))
	if err := b.copySource(dir); err != nil {
		return fmt.Errorf("copy the source for npm: %w", err)
	}
	cpu := map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm"}[p.Arch]
	libc := "glibc"
	if musl {
		libc = "musl"
	}
	argv := []string{
		"npm", "ci", "--omit=dev", "--ignore-scripts", "--install-links", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error",
		"--os=linux", "--cpu=" + cpu, "--libc=" + libc,
	}
	hint := ""
	if b.o.Offline {
		argv = append(argv, "--offline")
		hint = "the build is offline, so only what npm has in its cache is there: "
	}
	out, err := b.tool(ctx, dir, []string{"NODE_ENV=", "CI=1"}, argv...)
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s needs npm, which is not here; install it (apt install npm), or leave the lock file out and bring %s", packageName, modulesName)
	}
	if err != nil {
		return fmt.Errorf("install the packages of %s for %s: %s%w", packageName, p, hint, err)
	}
	if out != "" {
		b.o.Progress("node: " + out)
	}
	// npm's own notes; nothing at run time reads them.
	err = os.Remove(filepath.Join(dir, modulesName, ".package-lock.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// bindingName is in a package that is an addon, to be compiled when it is
// installed.
const bindingName = "binding.gyp"

// checkModules refuses packages whose native code is not there for p. seen are
// the files of its image.
func (b *builder) checkModules(p Platform, seen tree) error {
	if err := checkNative(p, seen); err != nil {
		return err
	}
	plan, err := b.planNode()
	if err != nil || !plan.install {
		return err
	}
	for _, name := range plan.scripts {
		dir := path.Join(modulesName, name)
		addon, code := false, tree{}
		for _, e := range seen {
			in, ok := strings.CutPrefix(e.path, path.Join(appPath, dir)+"/")
			addon = addon || ok && in == bindingName
			if ok && strings.HasSuffix(in, ".node") {
				code = append(code, e)
			}
		}
		found, err := natives(code)
		if err != nil {
			return err
		}
		if !addon || slices.ContainsFunc(found, func(f *native) bool { return slices.ContainsFunc(f.serves, p.Runs) }) {
			continue
		}
		if slices.Contains(plan.optional, name) {
			b.o.Progress(fmt.Sprintf("node: %s is left without its native part for %s", name, p))
			continue
		}
		return fmt.Errorf("package %s is an addon that npm would compile, and nothing here compiles for %s: build it on such a machine (npm rebuild %s) and put the outcome into %s/",
			name, p, name, path.Join(platformName, p.folder(), dir, "build/Release"))
	}
	return nil
}

// copySource copies the author's files, ignored ones too, but no packages.
func (b *builder) copySource(dir string) error {
	t, err := walk(b.root, "", func(p string, isDir bool) bool {
		return p == ".git" || p == platformName || (isDir && (p == modulesName || strings.HasSuffix(p, "/"+modulesName)))
	})
	if err != nil {
		return err
	}
	if err := checkSize(b.o.MaxSize, 0, t); err != nil {
		return err
	}
	return copyTree(t, dir)
}
