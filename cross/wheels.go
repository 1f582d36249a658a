package cross

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// wheel is a file of the wheels folder, by its name (PEP 427):
// NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl.
type wheel struct {
	file      string
	name      string // of the package, as PEP 503 has it
	version   string
	platforms []string // tags, such as manylinux2014_aarch64 or any
}

// parseWheel reads a wheel's name; false: it is none.
func parseWheel(file string) (wheel, bool) {
	base, ok := strings.CutSuffix(file, ".whl")
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 5 && len(parts) != 6 || slices.Contains(parts, "") {
		return wheel{}, false
	}
	name := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(parts[0]))
	return wheel{file, name, parts[1], strings.Split(parts[len(parts)-1], ".")}, true
}

// servesAny reports whether a machine that takes those tags can use the wheel.
func (w wheel) servesAny(tags []string) bool {
	return slices.ContainsFunc(w.platforms, func(t string) bool { return t == "any" || slices.Contains(tags, t) })
}

// missingWheels says which packages the wheels folder has for other platforms
// than p, and what to do; "" if it has none such. An empty python is the one at
// hand.
func (b *builder) missingWheels(p Platform, musl bool, python string) string {
	names, err := fs.ReadDir(b.root.FS(), wheelsName)
	if err != nil {
		return ""
	}
	packages := map[string][]wheel{}
	for _, n := range names {
		if w, ok := parseWheel(n.Name()); ok {
			packages[w.name] = append(packages[w.name], w)
		}
	}
	tags := wheelTags(p, musl)
	var missing []wheel // the first of each package
	for _, ws := range packages {
		if !slices.ContainsFunc(ws, func(w wheel) bool { return w.servesAny(tags) }) {
			missing = append(missing, ws[0])
		}
	}
	if len(missing) == 0 {
		return ""
	}
	slices.SortFunc(missing, func(a, b wheel) int { return cmp.Compare(a.name, b.name) })
	var text strings.Builder
	var wanted []string
	for _, m := range missing {
		fmt.Fprintf(&text, "\n  %s serves %s", path.Join(wheelsName, m.file), wheelPlatforms(m.platforms, musl))
		wanted = append(wanted, m.name+"=="+m.version)
	}
	if python != "" {
		wanted = append([]string{"--python-version", python}, wanted...)
	}
	return fmt.Sprintf("native wheels for %s are missing:%s\nadd those for %s, on a machine with a network by: python3 -m pip download -d %s --only-binary=:all: --platform %s %s",
		p, text.String(), p, wheelsName, commonTag(tags), strings.Join(wanted, " "))
}

// wheelPlatforms says which of our platforms take wheels with those tags.
func wheelPlatforms(tags []string, musl bool) string {
	var ps []Platform
	for _, p := range Platforms {
		if slices.ContainsFunc(tags, func(t string) bool { return slices.Contains(wheelTags(p, musl), t) }) {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return strings.Join(tags, " and ")
	}
	return joined(ps)
}

// commonTag is the tag that most wheels have: manylinux2014 where there is one.
func commonTag(tags []string) string {
	for _, t := range tags {
		if strings.HasPrefix(t, "manylinux2014_") {
			return t
		}
	}
	return tags[0]
}
