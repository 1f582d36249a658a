package golang_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/functions/runtimes/golang"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sdk")
	for range 2 {
		if err := golang.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "_test.go") {
			t.Errorf("%s is written", e.Name())
		}
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !strings.HasPrefix(string(mod), "module "+golang.Module+"\n") {
		t.Errorf("go.mod is %q, %v", mod, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "run.go")); err != nil {
		t.Error(err)
	}
}
