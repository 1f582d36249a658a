package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/node"
)

func TestSimulate(t *testing.T) {
	b := backend()
	s := open(t, b)
	s.run("devices", "simulate", "door", "on").want(t, 0, "", "")
	if got := b.Hard.Devices[0].Value; got != "on" {
		t.Errorf("value %q", got)
	}
	s.run("devices", "simulate", "window", "on").want(t, 4, "", `device "window"`)
	s.run("devices", "simulate", "../x", "on").want(t, 2, "", "make a name")
	s.run("devices", "simulate", "door").want(t, 2, "", "WHAT")
}

func TestDevicesThatCannotAllBeSeen(t *testing.T) {
	b := backend()
	b.Hard.Unseen = "GPIO chip gpiochip3: permission denied"
	open(t, b).run("devices").want(t, 0, "greenhouse", "not all that the machine offers can be seen: GPIO chip gpiochip3: permission denied\n")
}

func TestNoDevices(t *testing.T) {
	b := backend()
	b.Hard.Devices = nil
	s := open(t, b)
	o := s.run("devices")
	o.want(t, 0, "gpiochip:pinctrl-bcm2711/4", "the node's config names none")
	if strings.Contains(o.out, "DRIVEN BY") || strings.HasPrefix(o.out, "\n") {
		t.Errorf("a table of nothing:\n%s", o.out)
	}
	b.Hard.Found = nil
	s.run("devices").want(t, 0, "", "the node's config names none")
}

func TestSafe(t *testing.T) {
	s := open(t, backend())
	var got []drivers.Spec
	var fail error
	s.tools.safe = func(_ context.Context, cfg node.Config) ([]string, error) {
		got = cfg.Devices
		return []string{"relay"}, fail
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "devices:\n  relay: {line: GPIO27, direction: out, safe: low}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("devices", "safe", "--config", file).want(t, 0, "", "line relay is at its safe value\n")
	want := []drivers.Spec{{Name: "relay", Where: file + ":2", Line: "GPIO27", Direction: drivers.Out, Safe: drivers.Low}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("devices (-want +got):\n%s", d)
	}
	fail = errors.New("line lamp: in use")
	s.run("devices", "safe", "--config", file).want(t, 1, "", "line relay is at its safe value\nedgefn: line lamp: in use\n")
	s.run("devices", "safe", "--config", file+"x").want(t, 2, "", "no such file")
	s.run("devices", "safe").want(t, 2, "", "--config F is missing")

	got = nil
	if err := os.WriteFile(file, []byte("hardware: sim\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("devices", "safe", "--config", file).want(t, 0, "", "simulated lines end with their node")
	if got != nil {
		t.Errorf("simulated lines were driven: %v", got)
	}
}
