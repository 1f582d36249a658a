package drivers

import (
	"cmp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Near returns the names that are nearest to one that is not among them, at
// most limit, for a message. It passes over those that have nothing to do with
// it, unless all have nothing.
func Near(name string, names []string, limit int) []string {
	lower := strings.ToLower(name)
	type scored struct {
		name     string
		distance int
	}
	all := make([]scored, 0, len(names))
	for _, n := range names {
		d := levenshtein.ComputeDistance(lower, strings.ToLower(n))
		if strings.Contains(strings.ToLower(n), lower) || strings.Contains(lower, strings.ToLower(n)) {
			d = min(d, 1)
		}
		all = append(all, scored{n, d})
	}
	slices.SortStableFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	most := max(2, len([]rune(name))/2)
	if n := slices.IndexFunc(all, func(s scored) bool { return s.distance > most }); n > 0 {
		all = all[:n]
	}
	near := make([]string, 0, limit)
	for _, s := range all {
		if len(near) < limit && !slices.Contains(near, s.name) {
			near = append(near, s.name)
		}
	}
	return near
}
