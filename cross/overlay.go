package cross

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/edgefn/edgefn/functions"
)

// platformName is the folder with a folder for each platform, the files of
// which are laid over the others in the images for that platform.
const platformName = "platform"

// folder is the name of the platform's folder, such as linux-arm-v7.
func (p Platform) folder() string { return strings.ReplaceAll(p.String(), "/", "-") }

// overlays are the files of the platform folder.
type overlays map[Platform]*tree

// of returns what is laid over the files for p: the folder of p itself, or else
// the best of those that p runs. nil: there is none.
func (o overlays) of(p Platform) *tree {
	if t := o[p]; t != nil {
		return t
	}
	var best *tree
	score := -1
	for have, t := range o {
		if n := fits(p, "linux", have.Arch, have.Variant); n > score {
			best, score = t, n
		}
	}
	return best
}

// overlays lists the folders in platform/. A function in go has none: its
// program is compiled for each platform, and platform may be one of its packages.
func (b *builder) overlays(out ignores) (overlays, error) {
	info, err := b.root.Stat(platformName)
	if errors.Is(err, fs.ErrNotExist) || b.f.Runtime == functions.Go || err == nil && !info.IsDir() || out.match(platformName, true) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", platformName, err)
	}
	entries, err := fs.ReadDir(b.root.FS(), platformName)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", platformName, err)
	}
	names := make([]string, len(Platforms))
	for i, p := range Platforms {
		names[i] = p.folder()
	}
	o := overlays{}
	for _, e := range entries {
		dir := path.Join(platformName, e.Name())
		if out.match(dir, e.IsDir()) {
			continue
		}
		i := slices.Index(names, e.Name())
		if i < 0 || !e.IsDir() {
			return nil, fmt.Errorf("%s is none of the folders that %s can hold: %s; files for all platforms stand beside %s, not in it",
				dir, platformName, strings.Join(names, ", "), platformName)
		}
		t, err := b.overlay(dir, out)
		if err != nil {
			return nil, err
		}
		o[Platforms[i]] = &t
	}
	return o, nil
}

// overlay lists one folder, without what the author leaves out.
func (b *builder) overlay(dir string, out ignores) (tree, error) {
	root, err := b.root.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	b.opened = append(b.opened, root)
	t, err := walk(root, appPath, func(p string, isDir bool) bool { return out.match(path.Join(dir, p), isDir) })
	for i := range t {
		t[i].from = path.Join(dir, strings.TrimPrefix(t[i].path, appPath+"/"))
	}
	return t, err
}

// laid is what is seen of trees that lie over each other, the lowest first.
func laid(trees ...*tree) tree {
	var out tree
	for _, over := range trees {
		if over == nil {
			continue
		}
		kinds := make(map[string]fs.FileMode, len(*over))
		for _, e := range *over {
			kinds[e.path] = e.kind
		}
		out = slices.DeleteFunc(out, func(e entry) bool {
			if _, again := kinds[e.path]; again {
				return true
			}
			for dir := path.Dir(e.path); dir != "."; dir = path.Dir(dir) {
				if kind, there := kinds[dir]; there && kind != fs.ModeDir {
					return true // in a folder that is none any more
				}
			}
			return false
		})
		out = append(out, *over...)
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	return out
}
