package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/node/api"
)

func TestSearchable(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := searchable(run)
	if err == nil || !strings.Contains(err.Error(), dir+" has mode 0700") || !strings.Contains(api.Hint(err), "chmod o+x "+dir) {
		t.Errorf("got %v (%s)", err, api.Hint(err))
	}
	if err := searchable("/"); err != nil {
		t.Error(err)
	}
	if err := searchable(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there can be searched")
	}
}
