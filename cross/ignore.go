package cross

import (
	"fmt"
	"regexp"
	"strings"
)

// ignoreName is the file that says what of a source folder stays out of the image.
const ignoreName = ".edgefnignore"

// defaultIgnores stand before the author's patterns, so that ! can undo them.
var defaultIgnores = []string{".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", ".DS_Store", "*.swp"}

// ignores is a list of patterns, of which the last that matches decides.
type ignores []ignorePattern

type ignorePattern struct {
	form    *regexp.Regexp
	negate  bool
	dirOnly bool
}

// parseIgnores reads patterns as gitignore(5) has them.
func parseIgnores(text string) (ignores, error) {
	var out ignores
	for i, line := range strings.Split(text, "\n") {
		p, ok, err := parseIgnore(strings.TrimSuffix(line, "\r"))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: pattern %q: %w", ignoreName, i+1, line, err)
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func parseIgnore(line string) (p ignorePattern, ok bool, err error) {
	// Blanks at the end do not count unless a backslash stands before them.
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	if line == "" || line[0] == '#' {
		return p, false, nil
	}
	line, p.negate = strings.CutPrefix(line, "!")
	line, p.dirOnly = strings.CutSuffix(line, "/")
	if line == "" {
		return p, false, nil
	}
	// With a slash at the beginning or in the middle a pattern is relative to
	// the folder; without, it matches at any depth.
	prefix := "(?:.*/)?"
	if strings.Contains(line, "/") {
		prefix, line = "", strings.TrimPrefix(line, "/")
	}
	p.form, err = regexp.Compile("(?s)^" + prefix + globForm(line) + "$")
	return p, true, err
}

// globForm turns a glob into a regular expression.
func globForm(glob string) string {
	var b strings.Builder
	for i := 0; i < len(glob); i++ {
		rest := glob[i:]
		start := i == 0 || glob[i-1] == '/'
		switch {
		case start && strings.HasPrefix(rest, "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
		case start && rest == "**":
			b.WriteString(".+")
			i++
		case rest[0] == '*':
			b.WriteString("[^/]*")
			for i+1 < len(glob) && glob[i+1] == '*' {
				i++
			}
		case rest[0] == '?':
			b.WriteString("[^/]")
		case rest[0] == '[':
			class, n := globClass(rest)
			b.WriteString(class)
			i += n - 1
		case rest[0] == '\\' && len(rest) > 1:
			b.WriteString(regexp.QuoteMeta(rest[1:2]))
			i++
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
		}
	}
	return b.String()
}

// nothing matches nothing.
const nothing = `[^\x00-\x{10FFFF}]`

// globClass turns a class such as [a-z] or [!0-9] at the start of s into one of
// a regular expression, and returns how much of s it is. A [ without ] matches nothing, as in git.
func globClass(s string) (class string, n int) {
	i := 1
	negate := i < len(s) && (s[i] == '!' || s[i] == '^')
	if negate {
		i++
	}
	first := i
	var b strings.Builder
	for ; i < len(s); i++ {
		switch {
		case s[i] == ']' && i > first:
			if negate {
				return "[^/" + b.String() + "]", i + 1
			}
			return "[" + b.String() + "]", i + 1
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteString(regexp.QuoteMeta(s[i : i+1]))
		case s[i] == '-':
			b.WriteByte('-')
		case s[i] == '^' || s[i] == '[' || s[i] == ']':
			b.WriteString(`\` + s[i:i+1])
		default:
			b.WriteByte(s[i])
		}
	}
	return nothing, len(s)
}

// match reports whether a path is left out. A folder that is left out is not
// entered, so what is in it cannot be brought back, as in git.
func (g ignores) match(path string, dir bool) bool {
	out := false
	for _, p := range g {
		if out == p.negate && (dir || !p.dirOnly) && p.form.MatchString(path) {
			out = !p.negate
		}
	}
	return out
}
