package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// source is a folder with a manifest.
func source(t *testing.T, manifest string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "edgefn.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const goodManifest = "name: fan\nruntime: python\nhandler: main:handle\n"

func TestDeploy(t *testing.T) {
	b := backend()
	const bytes = 3 << 20
	var got int64
	var o api.DeployOptions
	answer := api.Deployed{Name: "fan", Version: "sha256:feed", Nodes: []string{"gw1", "gw2"}, Warnings: []string{"memory is not limited"}}
	var fail error
	b.OnDeploy = func(_ context.Context, image io.Reader, opts api.DeployOptions, progress func(api.Progress)) (api.Deployed, error) {
		o = opts
		var err error
		if got, err = io.Copy(io.Discard, image); err != nil {
			return api.Deployed{}, fmt.Errorf("import: %w", err)
		}
		progress(api.Progress{Step: "activate"})
		return answer, fail
	}
	s := open(t, b)
	img := &fakeImage{n: bytes}
	var platforms []string
	s.tools.build = func(_ context.Context, b buildRequest) (image, error) {
		b.step("layer")
		platforms = b.platforms
		if b.python != "3.11.2" {
			t.Errorf("wheels are for python %q, the node has 3.11.2", b.python)
		}
		return img, nil
	}
	dir := source(t, goodManifest)

	s.run("deploy", dir, "--wait", "5s").want(t, 0, "name:     fan\nversion:  sha256:feed\nnodes:    gw1, gw2\nsent:     3.0 MiB, 0 B were there\n", "warning: memory is not limited\n")
	if got != bytes || o.Wait != 5*time.Second {
		t.Errorf("%d bytes, %+v", got, o)
	}
	if d := cmp.Diff([]string{"linux/arm/v7"}, platforms); d != "" {
		t.Errorf("without --arch it is not the node's platform: %s", d)
	}
	answer.Unchanged = true
	s.run("deploy", dir, "--arch", "amd64,arm/v6").want(t, 0, "unchanged:", "warning")
	if d := cmp.Diff([]string{"amd64", "arm/v6"}, platforms); d != "" {
		t.Error(d)
	}
	s.run("deploy", dir, "-o", "json").want(t, 0, `"unchanged": true`, "warning")

	fail = &api.Error{Err: api.ErrRefused, Message: "fan does not load:\nNameError: x", Hint: "the old version serves"}
	s.run("deploy", dir).want(t, 1, "", "edgefn: fan does not load:\nNameError: x\nhint: the old version serves\n")
	fail = fmt.Errorf("start: %w", api.ErrTimeout)
	s.run("deploy", dir).want(t, 5, "", "start: timed out")

	fail, img.err = nil, errors.New("layer vanished")
	s.run("deploy", dir).want(t, 1, "", "layer vanished")
	if img.closed != 6 {
		t.Errorf("6 deploys closed their image %d times", img.closed)
	}
	s.run("deploy", dir, "--node", "/nowhere.sock").want(t, 6, "", "no such socket")
	s.tools.build = func(context.Context, buildRequest) (image, error) {
		return nil, errors.New("pip is missing")
	}
	s.run("deploy", dir).want(t, 1, "", "pip is missing")
}

// What the node has is left out; if it is gone when the image arrives, all is
// sent.
func TestDeploySendsWhatIsMissing(t *testing.T) {
	b := backend()
	b.Blobs = []string{fakeDigest('a')}
	var got []int64
	var fail error
	b.OnDeploy = func(_ context.Context, image io.Reader, _ api.DeployOptions, _ func(api.Progress)) (api.Deployed, error) {
		n, err := io.Copy(io.Discard, image)
		got = append(got, n)
		if n < 100 && fail != nil {
			return api.Deployed{}, fail
		}
		return api.Deployed{Name: "fan", Version: fakeDigest('f'), Nodes: []string{"gw1"}}, err
	}
	s := open(t, b)
	s.tools.build = func(context.Context, buildRequest) (image, error) { return &fakeImage{n: 100}, nil }
	dir := source(t, goodManifest)

	o := s.run("deploy", dir, "-o", "json")
	o.want(t, 0, `"sent_bytes": 10`, "")
	o.want(t, 0, `"reused_bytes": 90`, "")
	fail = fmt.Errorf("it lacks a layer: %w", api.ErrIncomplete)
	o = s.run("deploy", dir, "-o", "json")
	o.want(t, 0, `"sent_bytes": 110`, "")
	o.want(t, 0, `"reused_bytes": 0`, "")
	if d := cmp.Diff([]int64{10, 10, 100}, got); d != "" {
		t.Errorf("uploads: %s", d)
	}
	b.Blobs = nil
	b.OnDeploy = func(context.Context, io.Reader, api.DeployOptions, func(api.Progress)) (api.Deployed, error) {
		return api.Deployed{}, fail
	}
	s.run("deploy", dir).want(t, 1, "", "it lacks a layer")
}

// A person at a terminal sees how much has gone.
func TestDeployShowsWhatIsSent(t *testing.T) {
	b := backend()
	var errs buffer
	b.OnDeploy = func(_ context.Context, image io.Reader, _ api.DeployOptions, _ func(api.Progress)) (api.Deployed, error) {
		if _, err := io.CopyN(io.Discard, image, 1<<20); err != nil {
			return api.Deployed{}, err
		}
		for end := time.Now().Add(10 * time.Second); !strings.Contains(errs.String(), "MiB of 8.0 MiB"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("nothing of the upload in %q", errs.String())
				break
			}
		}
		_, err := io.Copy(io.Discard, image)
		return api.Deployed{Name: "fan", Nodes: []string{"gw1"}}, err
	}
	s := open(t, b)
	s.terminal = true
	s.tools.build = func(context.Context, buildRequest) (image, error) { return &fakeImage{n: 8 << 20}, nil }
	var out buffer
	if code := s.app(&out, &errs, "").run(t.Context(), []string{"deploy", source(t, goodManifest)}); code != 0 || !strings.HasSuffix(errs.String(), "\r\x1b[K") {
		t.Errorf("exit code %d, the terminal shows %q", code, errs.String())
	}
	if !strings.Contains(errs.String(), "deploying fan: sending: ") {
		t.Errorf("the terminal shows %q", errs.String())
	}
}

// A platform that the node does not run is refused before anything is built.
func TestDeployForWrongPlatform(t *testing.T) {
	b := backend()
	s := open(t, b)
	s.tools.build = func(context.Context, buildRequest) (image, error) {
		t.Error("it was built")
		return nil, errors.New("built")
	}
	dir := source(t, goodManifest)
	for _, c := range []struct{ node, arch, err string }{
		{"linux/amd64", "arm64", `--arch arm64: node "gw1" is linux/amd64`},
		{"linux/arm/v6", "arm64,arm/v7", "hint: name its platform too, --arch arm64,arm/v7,arm/v6, or leave --arch out"},
		{"linux/arm64", "arm/v7", "is linux/arm64"},
		{"linux/arm64", "mips", `platform "mips" is not known`},
	} {
		b.Node.Platform = c.node
		s.run("deploy", dir, "--arch", c.arch).want(t, 2, "", c.err)
	}
}

func TestBadManifest(t *testing.T) {
	s := open(t, backend())
	dir := source(t, "name: fan\nruntime: python\nhandler: main:handle\nmemroy: 64Mi\ntimeout: soon\n")
	for _, args := range [][]string{{"deploy", dir}, {"build", dir, "-o", "x.tar"}} {
		o := s.run(args...)
		o.want(t, 2, "", "edgefn.yaml:4: ")
		for _, want := range []string{"memroy", "memory", "edgefn.yaml:5: "} {
			if !strings.Contains(o.err, want) {
				t.Errorf("no %q in %q", want, o.err)
			}
		}
	}
}

func TestBuild(t *testing.T) {
	s := open(t, backend())
	img := &fakeImage{n: 100}
	s.tools.build = func(context.Context, buildRequest) (image, error) { return img, nil }
	dir, out := source(t, goodManifest), t.TempDir()

	tar := filepath.Join(out, "fan.tar")
	s.run("build", dir, "-o", tar).want(t, 0, "name:     fan\nversion:  "+fakeDigest('f')+"\nwritten:  "+tar+"\n", "")
	if info, err := os.Stat(tar); err != nil || info.Size() != 100 {
		t.Errorf("%v %v", info, err)
	}
	layout := filepath.Join(out, "fan")
	s.run("build", dir, "-o", layout).want(t, 0, layout, "")
	s.run("build", dir, "-o", layout).want(t, 0, layout, "")
	s.run("build", dir, "-o", dir).want(t, 2, "", "holds other things")

	img.err = errors.New("disk is full")
	s.run("build", dir, "-o", tar).want(t, 1, "", "disk is full")
	if info, err := os.Stat(tar); err != nil || info.Size() != 100 {
		t.Errorf("a failed build touched the image of before: %v %v", info, err)
	}
	if img.closed != 5 {
		t.Errorf("5 builds closed their image %d times", img.closed)
	}
	if left, err := filepath.Glob(filepath.Join(out, "*.part")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInit(t *testing.T) {
	s := open(t, backend())
	var got []string
	s.tools.scaffold = func(dir, name string, rt functions.Runtime) error {
		got = []string{dir, name, string(rt)}
		return nil
	}
	s.run("init", "a/fan", "--runtime", "go").want(t, 0, "a/fan/edgefn.yaml\n", "next: edgefn deploy a/fan\n")
	if d := cmp.Diff([]string{"a/fan", "fan", "go"}, got); d != "" {
		t.Error(d)
	}
	s.run("init", "X_Y", "--name", "xy", "--runtime", "exec").want(t, 0, "edgefn.yaml", "next")
	if got[1] != "xy" {
		t.Errorf("%v", got)
	}
	s.tools.scaffold = func(string, string, functions.Runtime) error { return errors.New("folder is not empty") }
	s.run("init", "fan", "--runtime", "go").want(t, 1, "", "folder is not empty")
}
