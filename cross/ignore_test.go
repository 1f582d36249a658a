package cross_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/edgefn/edgefn/cross"
)

// gitIgnored asks git which of the paths .gitignore leaves out.
func gitIgnored(t interface{ Fatalf(string, ...any) }, repo, patterns string, paths []string) []string {
	if err := os.WriteFile(filepath.Join(repo, ".gitignore"), []byte(patterns), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	cmd := exec.Command("git", "-C", repo, "check-ignore", "--no-index", "--stdin", "-z")
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\x00"))
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 { // 1: none is ignored
		t.Fatalf("git check-ignore: %v %s", err, stderr.String())
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
}

// ignorePaths are files in a repository; folders are those above them.
var ignorePaths = []string{
	"a", "b", "a.txt", "d/a", "d/b.txt", "d/e/a", "d/e/f/a.txt", "x y", "d/x ", "#a", "!a", "e/d/a", "ab", "abc", "d/ab", "a]b", "[a",
}

func newRepo(t *testing.T) string {
	t.Helper()
	repo := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", repo).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v %s", err, out)
	}
	for _, p := range ignorePaths {
		file := filepath.Join(repo, p)
		if st, err := os.Stat(file); err == nil && st.IsDir() {
			t.Fatalf("%s is a folder already", p)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return repo
}

func checkIgnores(t interface{ Fatalf(string, ...any) }, repo, patterns string) {
	want := gitIgnored(t, repo, patterns, ignorePaths)
	for _, p := range ignorePaths {
		got, err := cross.Ignored(patterns, p, false)
		if err != nil {
			t.Fatalf("patterns %q: %v", patterns, err)
		}
		if git := slices.Contains(want, p); got != git {
			t.Fatalf("patterns %q: %q left out: %v, git says %v", patterns, p, got, git)
		}
	}
}

func TestIgnoreAsGit(t *testing.T) {
	repo := newRepo(t)
	for _, patterns := range []string{
		"", "a", "/a", "*.txt", "d/", "d", "a/", "d/*", "d/**", "**/a", "d/**/a", "**", "*", "a?", "a*", "[a]", "[!a]", "[^a]*", "[a-b]b", "x\\ y", "x y", "x*  ",
		"d/x\\ ", "\\#a", "#a", "\\!a", "!a", "*\n!a", "*\n!d/\n!d/a", "d/\n!d/a", "*.txt\n!a.txt", "/d/e", "d/e", "e/", "/**/e", "e/**", "a]b", "[a", "\\[a", "?", "d/?.txt",
		"a\r\nb", "a**c", "d/e/**/a.txt", "/*\n!/d", "***",
	} {
		checkIgnores(t, repo, patterns)
	}
}

var oddStars = regexp.MustCompile(`[^/!]\*\*|\*\*[^/]`)

// Whatever the patterns, the files that are left out are those that git leaves out.
func TestIgnoreAsGitAlways(t *testing.T) {
	repo := newRepo(t)
	pattern := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "d", "e", "f", "/", "*", "**/", "/**", "?", ".txt", "[ab]", "[!a]", "!", "x y"}), 1, 5).Draw(t, "pattern"), "")
	}).Filter(func(p string) bool {
		// What ** means beside other characters, git's documentation and git say differently.
		return !strings.Contains(p, "//") && !oddStars.MatchString(p)
	})
	rapid.Check(t, func(t *rapid.T) {
		checkIgnores(t, repo, strings.Join(rapid.SliceOfN(pattern, 1, 3).Draw(t, "patterns"), "\n"))
	})
}

// A character is one character here, whatever bytes it has; to git it is bytes.
func TestIgnoreCharacters(t *testing.T) {
	for patterns, want := range map[string]bool{"é": true, "?": true, "[é]": true, "[!é]": false, "e": false, "??": false} {
		if got, err := cross.Ignored(patterns, "é", false); err != nil || got != want {
			t.Errorf("%q leaves é out: %v, %v, want %v", patterns, got, err, want)
		}
	}
	if _, err := cross.Ignored("ok\n[z-a]", "x", false); err == nil || !strings.Contains(err.Error(), ".edgefnignore:2") {
		t.Errorf("a range that is none: %v, want an error with its line", err)
	}
}
