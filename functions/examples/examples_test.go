// Package examples runs the tests of the examples, each with its language's own tool.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestExamples(t *testing.T) {
	sdk, err := filepath.Abs("../runtimes/golang/sdk")
	if err != nil {
		t.Fatal(err)
	}
	// The SDK's folder has no go.mod of its own: the command line adds one
	// where it builds a function, and so does this test.
	goTest := []string{"sh", "-ec", `dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
mkdir "$dir/sdk"; cp "$SDK"/*.go "$dir/sdk"; rm -f "$dir"/sdk/*_test.go
printf 'module github.com/edgefn/edgefn-go\n\ngo 1.25\n' >"$dir/sdk/go.mod"
cp go.mod "$dir/go.mod"; go mod edit -replace "github.com/edgefn/edgefn-go=$dir/sdk" "$dir/go.mod"
go test -modfile "$dir/go.mod" -mod=mod ./...`}
	tests := map[string][]string{
		"thermostat": {"/usr/bin/python3", "-B", "-m", "unittest"},
		"leak-alarm": {"node", "--test"},
		"tally":      {"sh", "test.sh"},
		"celsius":    goTest,
		"doorbell":   {"/usr/bin/python3", "-B", "-m", "unittest"},
		"climate":    goTest,
	}
	for dir, argv := range tests {
		t.Run(dir, func(t *testing.T) {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "SDK="+sdk)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
