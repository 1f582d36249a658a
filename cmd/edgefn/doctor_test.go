package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/doctor"
)

// bareMachine has a kernel and a disk and little else.
func bareMachine(files fstest.MapFS) func(func(context.Context) (api.Status, error)) doctor.Machine {
	return func(status func(context.Context) (api.Status, error)) doctor.Machine {
		return doctor.Machine{
			Root: files, Arch: "arm", Now: func() time.Time { return now },
			Kernel:       func() (string, string, error) { return "6.12.25", "aarch64", nil },
			Synchronised: func() (bool, error) { return false, nil },
			Space: func(string) (doctor.Space, error) {
				return doctor.Space{Bytes: 8 << 30, FreeBytes: 4 << 30}, nil
			},
			Flush: func(context.Context, string) ([]time.Duration, error) {
				return []time.Duration{7 * time.Millisecond}, nil
			},
			Version:  func(context.Context, string) (string, error) { return "containerd x 1.6.20", nil },
			Answers:  func(string) bool { return true },
			Listen:   func(context.Context, string) error { return nil },
			Runtimes: func(context.Context) map[functions.Runtime]string { return nil },
			Status:   status,
		}
	}
}

func TestDoctor(t *testing.T) {
	s := open(t, backend())
	files := fstest.MapFS{
		"proc/filesystems":                   {Data: []byte("overlay")},
		"proc/self/ns/user":                  {},
		"proc/sys/user/max_user_namespaces":  {Data: []byte("1000")},
		"proc/meminfo":                       {Data: []byte("MemTotal: 1000000 kB\nMemAvailable: 800000 kB\n")},
		"sys/fs/cgroup/cgroup.controllers":   {Data: []byte("cpu pids")},
		"boot/firmware/cmdline.txt":          {Data: []byte("rootwait")},
		"usr/bin/containerd":                 {Mode: 0o755},
		"usr/lib/systemd/systemd-timesyncd":  {},
		"usr/sbin/runc":                      {Mode: 0o755},
		"sys/class/thermal/thermal_zone0/xy": {},
	}
	s.tools.machine = bareMachine(files)
	config := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("name: pi\n")
	o := s.run("doctor", "--config", config)
	o.want(t, 1, "/boot/firmware/cmdline.txt", "1 check failed")
	golden(t, "doctor.txt", o.out+"--- stderr\n"+o.err)

	// Warnings alone are no failure.
	files["sys/fs/cgroup/cgroup.controllers"] = &fstest.MapFile{Data: []byte("cpu memory pids")}
	o = s.run("doctor", "--config", config, "-o", "json")
	o.want(t, 0, "[", "")
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(o.out), &found); err != nil {
		t.Fatal(err)
	}
	states := map[doctor.State]int{}
	for _, f := range found {
		states[f.State]++
		if f.State == doctor.Warning && f.Check == "clock" && len(f.Fix) == 0 {
			t.Error("the clock has no fix")
		}
	}
	if states[doctor.OK] < 8 || states[doctor.Warning] < 3 || states[doctor.Failed] > 0 {
		t.Errorf("states %v of %+v", states, found)
	}

	// A config that a node would refuse is a finding, and the rest is looked at.
	write("name: pi\ndta: /x\n")
	o = s.run("doctor", "--config", config)
	o.want(t, 1, `unknown key "dta"`, "1 check failed")
	if !strings.Contains(o.out, "containerd") {
		t.Errorf("nothing else was looked at: %s", o.out)
	}
	s.run("doctor", "--config", "/nowhere.yaml").want(t, 1, "/nowhere.yaml", "failed")

	// With no node it works as well.
	s.env["EDGEFN_NODE"] = "unix:///nowhere.sock"
	write("name: pi\n")
	s.run("doctor", "--config", config).want(t, 0, "none answers", "")
}
