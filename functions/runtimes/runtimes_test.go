package runtimes_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/runtimes"
)

func TestLaunch(t *testing.T) {
	tests := []struct {
		runtime functions.Runtime
		handler []string
		env     map[string]string
		argv    string
		more    []string // of the environment
	}{
		{functions.Python, []string{"main:handle"}, nil, "python3 -I -S -B -X utf8 /edgefn/python/main.py main:handle", nil},
		{functions.Node, []string{"lib/main:handle"}, nil, "node --v8-pool-size=0 /edgefn/node/main.mjs lib/main:handle", nil},
		{functions.Go, []string{"./cmd/fan"}, nil, "/app/function", []string{"GOMEMLIMIT=60397974"}},
		{functions.Go, []string{"."}, map[string]string{"GOMEMLIMIT": "1MiB"}, "/app/function", nil},
		{functions.Exec, []string{"./run.sh", "-q"}, nil, "/edgefn/bin/edgefn-init exec -- ./run.sh -q", nil},
	}
	for _, tt := range tests {
		t.Run(string(tt.runtime), func(t *testing.T) {
			f := functions.Defaults()
			f.Runtime, f.Handler, f.Env = tt.runtime, tt.handler, tt.env
			c, err := runtimes.Launch(&f)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.Argv, " "); got != tt.argv {
				t.Errorf("argv %q, want %q", got, tt.argv)
			}
			want := append([]string{"EDGEFN_ISOLATION=invocation", "EDGEFN_MEMORY=67108864"}, tt.more...)
			if diff := cmp.Diff(want, c.Env); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
	for _, f := range []functions.Function{{Runtime: "perl", Handler: []string{"x"}}, {Runtime: functions.Python}} {
		if c, err := runtimes.Launch(&f); err == nil {
			t.Errorf("Launch(%+v) = %+v, want an error", f, c)
		}
	}
}

// files returns what is under dir, with modes.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		got[name] = st.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := runtimes.Write(dir); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"python": "drwxr-xr-x", "python/main.py": "-rw-r--r--",
		"python/edgefn": "drwxr-xr-x", "python/edgefn/__init__.py": "-rw-r--r--",
		"python/edgefn/_run.py": "-rw-r--r--", "python/edgefn/_wire.py": "-rw-r--r--",
		"node": "drwxr-xr-x", "node/main.mjs": "-rw-r--r--", "node/wire.mjs": "-rw-r--r--",
		"node/sdk.mjs": "-rw-r--r--", "node/edgefn.d.ts": "-rw-r--r--",
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A second time: what is the same is left alone, what differs is replaced,
	// and what was compiled of the other one goes.
	main, run := filepath.Join(dir, "node/main.mjs"), filepath.Join(dir, "python/edgefn/_run.py")
	before, err := os.Stat(main)
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(run)
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "python/edgefn/__pycache__")
	for _, err := range []error{
		os.Chmod(main, 0o600), os.WriteFile(run, []byte("old"), 0o600), os.Mkdir(stale, 0o755),
		os.WriteFile(filepath.Join(stale, "_run.cpython-311.pyc"), []byte("old"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := runtimes.Write(dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("the second time (-want +got):\n%s", diff)
	}
	after, err := os.Stat(main)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("a file that is the same was written again (%v)", err)
	}
	if got, _ := os.ReadFile(run); !slices.Equal(got, good) {
		t.Error("a file that differs was left alone")
	}
}

func python(t *testing.T) string {
	t.Helper()
	path, err := runtimes.Find("/usr/bin:/bin", "python3")
	if err != nil {
		t.Skip(err)
	}
	return path
}

func TestCompile(t *testing.T) {
	dir := t.TempDir()
	if err := runtimes.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := runtimes.Compile(t.Context(), dir, python(t)); err != nil {
		t.Fatal(err)
	}
	compiled := 0
	for name, mode := range files(t, filepath.Join(dir, "python")) {
		if strings.HasSuffix(name, ".pyc") {
			compiled++
			if mode != "-rw-r--r--" {
				t.Errorf("%s is %s", name, mode)
			}
		}
	}
	if compiled != 4 {
		t.Errorf("%d files are compiled, want 4", compiled)
	}
	if err := runtimes.Compile(t.Context(), dir, "/nowhere/python3"); err == nil {
		t.Error("no error of a python that is not there")
	}
}

func program(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestDiscover(t *testing.T) {
	good, bad, empty := t.TempDir(), t.TempDir(), t.TempDir()
	program(t, good, "python3", "echo Python 3.11.2+")
	program(t, good, "node", "echo v20.20.2")
	program(t, bad, "python3", "echo dying >&2; exit 1")
	program(t, bad, "node", "echo no version here")
	if err := os.Mkdir(filepath.Join(empty, "python3"), 0o755); err != nil {
		t.Fatal(err)
	}
	none := map[functions.Runtime]string{functions.Go: "static", functions.Exec: "static"}
	tests := []struct {
		name, path string
		want       map[functions.Runtime]string
	}{
		{"nothing", empty, none},
		{"no path", "", none},
		{"programs that do not run", bad, none},
		{"both, in the second folder", empty + ":" + good, map[functions.Runtime]string{
			functions.Python: "3.11.2", functions.Node: "20.20.2", functions.Go: "static", functions.Exec: "static",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, runtimes.Discover(t.Context(), tt.path)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSatisfies(t *testing.T) {
	tests := []struct {
		constraint, version string
		ok                  bool
	}{
		{"", "3.11.2", true},
		{"", "static", true},
		{">=3.9", "3.11.2", true},
		{">=3.9", "3.8.10", false},
		{"~3.11", "3.11.9", true},
		{"~3.11", "3.12.0", false},
		{"^20 || ^22", "22.1.0", true},
		{"^20 || ^22", "21.1.0", false},
		{">= nonsense", "3.11.2", false},
		{">=1.21", "static", false},
		{">=3.9", "unknown", false},
	}
	for _, tt := range tests {
		if err := runtimes.Satisfies(tt.constraint, tt.version); (err == nil) != tt.ok {
			t.Errorf("Satisfies(%q, %q) = %v, want ok: %v", tt.constraint, tt.version, err, tt.ok)
		}
	}
}

func TestNodeTypes(t *testing.T) {
	if got := string(runtimes.NodeTypes()); !strings.Contains(got, "export interface Context") {
		t.Errorf("the declarations have no Context:\n%s", got)
	}
}

// TestOwnSuites runs the tests that the shims have in their own languages.
func TestOwnSuites(t *testing.T) {
	t.Run("python", func(t *testing.T) {
		own(t, "python", python(t), "-B", "-m", "unittest", "-q")
	})
	t.Run("node", func(t *testing.T) {
		path, err := runtimes.Find("/usr/bin:/bin", "node")
		if err != nil {
			t.Skip(err)
		}
		own(t, "node", path, "--test")
	})
}

func own(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
