package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"

	"github.com/edgefn/edgefn/functions"
)

// decoder collects faults and remembers where each field stands.
type decoder struct {
	file   string
	faults []Fault
	lines  map[string]int  // field path -> line
	failed map[string]bool // fields that could not be decoded: the domain's view of them, and of what is in them, says nothing
	silent map[string]bool // fields of which the domain's view says nothing, but of what is in them it does
}

func (d *decoder) fault(line int, field, hint, format string, args ...any) {
	d.faults = append(d.faults, Fault{File: d.file, Line: line, Fault: functions.Fault{
		Field: field, Message: fmt.Sprintf(format, args...), Hint: hint,
	}})
	if field != "" {
		d.failed[field] = true
	}
}

// at is a fault at a node's value.
func (d *decoder) at(n *yaml.Node, field, hint, format string, args ...any) {
	d.fault(n.Line, field, hint, format, args...)
}

// err returns the faults in the order of their lines, or nil.
func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(d.faults, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{Faults: d.faults}
}

// parent cuts the last part off a path: triggers[0].mqtt.topic, triggers[0].mqtt,
// triggers[0], triggers, "".
func parent(field string) string {
	return field[:max(strings.LastIndexAny(field, ".["), 0)]
}

// known reports whether field, or what it is part of, has a fault already.
func (d *decoder) known(field string) bool {
	if d.silent[field] {
		return true
	}
	for ; field != ""; field = parent(field) {
		if d.failed[field] {
			return true
		}
	}
	return false
}

// line is where field stands, or the nearest thing around it.
func (d *decoder) line(field string) int {
	for ; field != ""; field = parent(field) {
		if l, ok := d.lines[field]; ok {
			return l
		}
	}
	return d.lines[""]
}

// keys maps each key of a mapping to what decodes its value.
type keys map[string]func(n *yaml.Node, field string)

// mapping decodes a mapping with known keys.
func (d *decoder) mapping(n *yaml.Node, field string, known keys) {
	d.entries(n, field, func(key, value *yaml.Node, path string) {
		decode, ok := known[key.Value]
		if !ok {
			d.at(key, path, nearest(key.Value, known), "is no known key")
			return
		}
		decode(value, path)
	})
}

// entries calls f with each key and value of a mapping.
func (d *decoder) entries(n *yaml.Node, field string, f func(key, value *yaml.Node, path string)) {
	if _, ok := d.lines[field]; !ok {
		d.lines[field] = n.Line
	}
	if n.Kind != yaml.MappingNode {
		d.wrongKind(n, field, "a mapping of keys to values")
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.at(key, field, "", "has a key that is no text")
			continue
		}
		path := key.Value
		if field != "" {
			path = field + "." + key.Value
		}
		if first, twice := seen[key.Value]; twice {
			d.at(key, path, "remove one", "is there twice, first in line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		d.lines[path] = key.Line
		f(key, value, path)
	}
}

// nearest is the hint for an unknown key: the known key that was meant, or all of them.
func nearest(key string, known keys) string {
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	best, least := "", 1+max(len(key)/3, 1)
	for _, k := range names {
		if d := levenshtein.ComputeDistance(strings.ToLower(key), k); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "known keys: " + strings.Join(names, ", ")
}

func (d *decoder) wrongKind(n *yaml.Node, field, want string) {
	var got string
	switch {
	case n.Kind == yaml.MappingNode:
		got = "a mapping"
	case n.Kind == yaml.SequenceNode:
		got = "a list"
	case n.Tag == "!!null":
		d.at(n, field, "give it "+want+", or remove the key", "has no value")
		return
	default:
		got = strconv.Quote(n.Value)
	}
	d.at(n, field, "", "is %s, expected %s", got, want)
}

// list calls f with each entry of a list.
func (d *decoder) list(n *yaml.Node, field string, f func(n *yaml.Node, field string)) {
	if n.Kind != yaml.SequenceNode {
		d.wrongKind(n, field, "a list")
		return
	}
	for i, c := range n.Content {
		path := fmt.Sprintf("%s[%d]", field, i)
		d.lines[path] = c.Line
		f(c, path)
	}
}

// text decodes a scalar as it is written: 28, 3.10 and true are text here too.
func (d *decoder) text(n *yaml.Node, field string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.wrongKind(n, field, "text")
		return "", false
	}
	return n.Value, true
}

// The functions below make a decoder of one key that stores into p.

func stringTo[T ~string](d *decoder, p *T) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if s, ok := d.text(n, field); ok {
			*p = T(s)
		}
	}
}

func (d *decoder) texts(p *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		d.list(n, field, func(n *yaml.Node, field string) {
			s, _ := d.text(n, field) // a faulty entry keeps its place, so indices stay right
			*p = append(*p, s)
		})
	}
}

func (d *decoder) textMap(p *map[string]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		d.entries(n, field, func(key, value *yaml.Node, path string) {
			if s, ok := d.text(value, path); ok {
				if *p == nil {
					*p = map[string]string{}
				}
				(*p)[key.Value] = s
			}
		})
	}
}

func integerTo[T int | byte](d *decoder, p *T, hint string) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" {
			d.wrongKind(n, field, "a whole number")
			return
		}
		v, err := strconv.Atoi(n.Value)
		if err != nil || int(T(v)) != v {
			d.at(n, field, hint, "%s is no whole number that fits here", n.Value)
			return
		}
		*p = T(v)
	}
}

func (d *decoder) numberMap(p *map[string]float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		d.entries(n, field, func(key, value *yaml.Node, path string) {
			var v float64
			if value.Kind != yaml.ScalarNode || (value.Tag != "!!int" && value.Tag != "!!float") || value.Decode(&v) != nil {
				d.wrongKind(value, path, "a number")
				return
			}
			if *p == nil {
				*p = map[string]float64{}
			}
			(*p)[key.Value] = v
		})
	}
}

func (d *decoder) boolean(p *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		if n.Kind != yaml.ScalarNode || (n.Value != "true" && n.Value != "false") {
			d.wrongKind(n, field, "true or false")
			return
		}
		*p = n.Value == "true"
	}
}
