package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// What init writes builds, to the same version each time, and is deployed
// whole.
func TestInitBuildDeploy(t *testing.T) {
	b := backend()
	var got []byte
	b.OnDeploy = func(_ context.Context, image io.Reader, _ api.DeployOptions, _ func(api.Progress)) (api.Deployed, error) {
		var err error
		got, err = io.ReadAll(image)
		return api.Deployed{Name: "fan"}, err
	}
	for _, rt := range []functions.Runtime{functions.Python, functions.Node, functions.Exec} {
		t.Run(string(rt), func(t *testing.T) {
			s := open(t, b)
			temp := t.TempDir()
			dir := filepath.Join(temp, "fan")
			a := func(args ...string) outcome {
				var out, errs buffer
				app := s.app(&out, &errs, "")
				app.tools = product{}
				code := app.run(t.Context(), args)
				return outcome{out.String(), errs.String(), code}
			}
			a("init", dir, "--runtime", string(rt)).want(t, 0, "edgefn.yaml", "next: edgefn deploy")
			if o := a("init", dir, "--runtime", string(rt)); o.code == 0 {
				t.Error("init wrote over a function")
			}
			tar := filepath.Join(temp, "fan.tar")
			first := a("build", dir, "--arch", "amd64,arm/v7,amd64", "-o", tar)
			first.want(t, 0, "version:  sha256:", "")
			second := a("build", dir, "--arch", "amd64,arm/v7", "-o", filepath.Join(temp, "layout"))
			digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`)
			if v := digest.FindString(first.out); v == "" || v != digest.FindString(second.out) {
				t.Errorf("built twice: %s and %s", first.out, second.out)
			}
			if _, err := os.Stat(filepath.Join(temp, "layout", "oci-layout")); err != nil {
				t.Error(err)
			}
			a("deploy", dir, "--arch", "amd64,arm/v7").want(t, 0, "name:", "")
			want, err := os.ReadFile(tar)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%d bytes were deployed, and %d were built", len(got), len(want))
			}
			a("build", dir, "--arch", "z80", "-o", tar).want(t, 2, "", "z80")
		})
	}
}

// A folder that cannot be built says why, and nothing is deployed.
func TestBuildFails(t *testing.T) {
	b := backend()
	b.OnDeploy = func(context.Context, io.Reader, api.DeployOptions, func(api.Progress)) (api.Deployed, error) {
		return api.Deployed{}, errors.New("deployed")
	}
	s := open(t, b)
	dir := source(t, strings.Replace(goodManifest, "handler:", "image: ./no-such-base.tar\nhandler:", 1))
	var out, errs buffer
	app := s.app(&out, &errs, "")
	app.tools = product{}
	code := app.run(t.Context(), []string{"deploy", dir})
	outcome{out.String(), errs.String(), code}.want(t, 1, "", "no-such-base.tar")
}
