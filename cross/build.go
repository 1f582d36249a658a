package cross

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/manifest"
)

// DefaultMaxSize bounds the files of one platform's image, in bytes.
const DefaultMaxSize = 512 << 20

// Options of a build.
type Options struct {
	Dir       string       // the function's folder, with edgefn.yaml
	Platforms []Platform   // none: that of this machine
	Python    string       // version of the python that will run it, such as 3.11.2; empty: that of the pip at hand
	Progress  func(string) // called with each step, for people; may be nil
	Offline   bool         // use no network
	MaxSize   int64        // bytes of the files of one platform's image; 0: DefaultMaxSize
}

const (
	appPath    = "app"    // functions.AppDir as a path in a layer
	vendorName = "vendor" // folder of Python packages as they are
)

// builder is one build.
type builder struct {
	o      Options
	f      *functions.Function
	root   *os.Root   // of the source
	temp   string     // folder that goes when the build ends
	opened []*os.Root // in temp, closed when the build ends
	python string     // whose pip installs, once it was found
	warned bool       // of install scripts
}

// Build makes the image of the function in o.Dir. It runs the language's tools
// (pip, npm, go), which read the author's files and may use the network unless
// o.Offline is set. A manifest with faults is a *manifest.Error. Nothing is left
// behind but the image, which the caller closes.
func Build(ctx context.Context, o Options) (img *Image, err error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	if len(o.Platforms) == 0 {
		o.Platforms = []Platform{Host()}
	}
	b := &builder{o: o}
	if b.f, err = manifest.Load(o.Dir); err != nil {
		return nil, err
	}
	if b.root, err = os.OpenRoot(o.Dir); err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	defer func() { err = errors.Join(err, b.root.Close()) }()
	if b.temp, err = os.MkdirTemp("", "edgefn-build-"); err != nil {
		return nil, fmt.Errorf("make temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, b.clean()) }()
	parts, err := b.build(ctx)
	if err == nil {
		img, err = newImage(b.f, parts)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build %s: %w", b.f, err), closeLayers(parts))
	}
	return img, nil
}

// tool runs a program of the language in dir. What it leaves in its temporary
// folder, also when it is killed, goes when the build ends.
func (b *builder) tool(ctx context.Context, dir string, env []string, argv ...string) (string, error) {
	return tool{dir: dir, argv: argv, env: append([]string{"TMPDIR=" + b.temp}, env...)}.run(ctx)
}

// closeLayers gives back the layers of an image that is not made.
func closeLayers(parts []contents) error {
	closed := map[*layer]bool{}
	var errs []error
	for _, c := range parts {
		for _, l := range c.all() {
			if !closed[l] {
				closed[l] = true
				errs = append(errs, l.file.Close())
			}
		}
	}
	return errors.Join(errs...)
}

// clean removes what the build has left.
func (b *builder) clean() error {
	var errs []error
	for _, r := range b.opened {
		errs = append(errs, r.Close())
	}
	return errors.Join(append(errs, removeAll(b.temp))...)
}

// removeAll removes a folder, also where a tool left folders that may not be
// written, as go does in its module cache.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700) //nolint:gosec // a folder is entered by its x bit
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// build makes the parts of every platform's image. After an error it returns those
// that were made.
func (b *builder) build(ctx context.Context) ([]contents, error) {
	out, err := readIgnores(b.root)
	if err != nil {
		return nil, err
	}
	src, err := b.source(out)
	if err != nil {
		return nil, err
	}
	over, err := b.overlays(out)
	if err != nil {
		return nil, err
	}
	// What the author's own files lack is said before any tool runs.
	if err := b.checkSource(src, over); err != nil {
		return nil, err
	}
	var bases *baseSource
	if b.f.Image != "" {
		temp := filepath.Join(b.temp, "base")
		if err := os.Mkdir(temp, 0o700); err != nil {
			return nil, err
		}
		if bases, err = openBase(ctx, &b.o, b.f.Image, temp); err != nil {
			return nil, err
		}
	}
	step, err := b.language(ctx, src)
	if err != nil {
		return nil, err
	}
	var parts []contents
	made := map[*tree]*layer{} // trees that platforms have in common become one layer
	for i, p := range b.o.Platforms {
		if slices.Contains(b.o.Platforms[:i], p) {
			continue
		}
		c := contents{platform: p}
		if bases != nil {
			b.o.Progress(fmt.Sprintf("base image: reading %s for %s", b.f.Image, p))
			if c.base, err = bases.load(p); err != nil {
				return parts, err
			}
		}
		trees, err := step(ctx, p, c.base != nil && c.base.musl)
		if err != nil {
			return parts, err
		}
		if own := over.of(p); own != nil {
			trees = append(slices.Clone(trees), own)
		}
		if b.f.Runtime == functions.Node {
			if err := b.checkModules(p, laid(trees...)); err != nil {
				return parts, err
			}
		}
		var below int64
		if c.base != nil {
			below = c.base.size
		}
		all := make([]tree, 0, len(trees))
		for _, t := range trees {
			all = append(all, *t)
		}
		if err := checkSize(b.o.MaxSize, below, all...); err != nil {
			return parts, err
		}
		for _, t := range trees {
			if made[t] == nil {
				b.o.Progress(fmt.Sprintf("packing %d files, %s", len(*t), mebibytes(t.size())))
				if made[t], err = newLayer(ctx, rooted(*t)); err != nil {
					return parts, err
				}
			}
			c.layers = append(c.layers, made[t])
		}
		parts = append(parts, c)
		if err := ctx.Err(); err != nil {
			return parts, err
		}
	}
	return parts, nil
}

// rooted puts the folder of the author's files in front, so that its mode is
// ours in every layer.
func rooted(t tree) tree {
	return append(tree{{path: appPath, kind: fs.ModeDir}}, t...)
}

// checkSource refuses what cannot be right on some platform, whatever the tools
// of the language add.
func (b *builder) checkSource(src tree, over overlays) error {
	if b.f.Runtime == functions.Go {
		return nil // it is compiled for each
	}
	var errs []error
	for _, p := range b.o.Platforms {
		seen := laid(&src, over.of(p))
		if b.f.Runtime == functions.Exec {
			if err := b.checkProgram(p, seen); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, checkNative(p, seen))
	}
	return errors.Join(errs...)
}

// source lists the author's files that belong into every image, without what
// the author leaves out.
func (b *builder) source(patterns ignores) (tree, error) {
	out := []string{manifest.FileName, ignoreName}
	if info, err := b.root.Stat(platformName); err == nil && info.IsDir() {
		out = append(out, platformName)
	}
	if b.f.Image != "" {
		if file, local := localBase(b.o.Dir, b.f.Image); local {
			if rel, err := filepath.Rel(b.o.Dir, file); err == nil {
				out = append(out, filepath.ToSlash(rel))
			}
		}
	}
	switch b.f.Runtime {
	case functions.Python:
		out = append(out, wheelsName)
		if b.has(requirementsName) {
			out = append(out, depsName)
		}
	case functions.Node:
		plan, err := b.planNode()
		if err != nil {
			return nil, err
		}
		if plan.install {
			out = append(out, modulesName)
		}
	case functions.Go: // the program is all there is
		return nil, nil
	case functions.Exec:
	}
	return walk(b.root, appPath, func(p string, dir bool) bool { return slices.Contains(out, p) || patterns.match(p, dir) })
}

// has reports whether the source has a file or folder of that name.
func (b *builder) has(name string) bool {
	_, err := b.root.Lstat(name)
	return err == nil
}

// platformStep returns the trees of one platform, the lowest first. Trees that
// are the same for several platforms are the same pointer.
type platformStep func(ctx context.Context, p Platform, musl bool) ([]*tree, error)

// language returns what makes the parts of the function's language.
func (b *builder) language(ctx context.Context, src tree) (platformStep, error) {
	switch b.f.Runtime {
	case functions.Go:
		return b.goStep(ctx)
	case functions.Python:
		deps, code := split(src, path.Join(appPath, vendorName))
		if !b.has(requirementsName) {
			return fixed(deps, code), nil
		}
		return b.installed(depsName, deps, code, b.pythonDeps), nil
	case functions.Node:
		plan, err := b.planNode()
		if err != nil {
			return nil, err
		}
		deps, code := split(src, path.Join(appPath, modulesName))
		if !plan.install {
			return fixed(deps, code), nil
		}
		return b.installed(modulesName, nil, code, func(ctx context.Context, p Platform, musl bool, dir string) (bool, error) {
			return plan.universal, b.nodeDeps(ctx, p, musl, plan, dir)
		}), nil
	case functions.Exec:
		return fixed(nil, src), nil
	}
	return nil, fmt.Errorf("runtime %q cannot be built", b.f.Runtime)
}

// fixed is a step whose trees are the same for every platform.
func fixed(deps, code tree) platformStep {
	large, small := heavy(code)
	trees := layersOf(&deps, &large, &small)
	return func(context.Context, Platform, bool) ([]*tree, error) { return trees, nil }
}

// installed is a step with dependencies that a tool installs into the folder
// name: with those of the author, if there are any, as the lowest layer.
func (b *builder) installed(name string, own, code tree, install func(ctx context.Context, p Platform, musl bool, dir string) (bool, error)) platformStep {
	var common *tree // what serves every platform
	large, small := heavy(code)
	n := 0
	return func(ctx context.Context, p Platform, musl bool) ([]*tree, error) {
		if common != nil {
			return layersOf(common, &large, &small), nil
		}
		n++
		dir := filepath.Join(b.temp, fmt.Sprintf("deps-%d", n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		universal, err := install(ctx, p, musl, dir)
		if err != nil {
			return nil, err
		}
		t, err := b.dependencies(dir, name)
		if err != nil {
			return nil, err
		}
		t = append(slices.Clone(own), t...)
		if universal {
			common = &t
		}
		return layersOf(&t, &large, &small), nil
	}
}

// layersOf leaves empty trees out, but for the code.
func layersOf(deps, large, small *tree) []*tree {
	trees := slices.DeleteFunc([]*tree{deps, large}, func(t *tree) bool { return len(*t) == 0 })
	return append(trees, small)
}

// largeFile is the size from which on a file is in a layer of such files, so
// that a change of code does not send a model or a program along.
const largeFile = 256 << 10

// heavy parts the author's files into the large ones, with the folders that
// they are in, and the others.
func heavy(code tree) (large, small tree) {
	dirs := map[string]bool{}
	for _, e := range code {
		if e.size >= largeFile {
			for dir := path.Dir(e.path); dir != "."; dir = path.Dir(dir) {
				dirs[dir] = true
			}
		}
	}
	for _, e := range code {
		if e.size >= largeFile || dirs[e.path] {
			large = append(large, e)
		}
		if e.size < largeFile {
			small = append(small, e)
		}
	}
	return large, small
}

// dependencies lists the folder name in dir as part of the image.
func (b *builder) dependencies(dir, name string) (tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	b.opened = append(b.opened, root)
	return walk(root, appPath, func(p string, _ bool) bool { return p != name && !strings.HasPrefix(p, name+"/") })
}

// goStep compiles for each platform.
func (b *builder) goStep(ctx context.Context) (platformStep, error) {
	m, err := b.prepareGo(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, p Platform, _ bool) ([]*tree, error) {
		t, err := b.compileGo(ctx, m, p)
		if err != nil {
			return nil, err
		}
		return []*tree{&t}, nil
	}, nil
}

// checkProgram refuses a program among the author's files that cannot be run on
// p. seen are the files of its image.
func (b *builder) checkProgram(p Platform, seen tree) error {
	name := b.f.Handler[0]
	if !strings.HasPrefix(name, "./") {
		return nil // of the system, or of the base image
	}
	i := slices.IndexFunc(seen, func(e entry) bool { return e.path == path.Join(appPath, name) })
	switch {
	case i < 0 && b.f.Image == "":
		return fmt.Errorf("handler: %s is not there for %s; name a file of the folder that %s does not leave out, or put one for each platform into %s/%s and its like",
			name, p, ignoreName, platformName, p.folder())
	case i < 0:
		return nil // of the base image
	case seen[i].kind == fs.ModeDir:
		return fmt.Errorf("handler: %s is a folder", name)
	case seen[i].kind != 0:
		return nil
	case !seen[i].exec:
		return fmt.Errorf("handler: %s is not executable; run chmod +x %s", name, path.Join(filepath.ToSlash(b.o.Dir), cmp.Or(seen[i].from, name)))
	}
	n, err := readNative(seen[i])
	if err != nil {
		return fmt.Errorf("handler: %s: %w", name, err)
	}
	if n != nil && !slices.ContainsFunc(n.serves, p.Runs) {
		return fmt.Errorf("handler: %w", &nativeError{p, []*native{n}})
	}
	return nil
}
