package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/edgefn/edgefn/testbed/gateway"
)

// gatewayConfig names the lines that edges are made on.
const gatewayConfig = "devices:\n  edge: {line: GPIO5, pull: down}\n"

// gatewayRows is onGateway with a folder of its own.
func gatewayRows() ([]row, error) {
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.end()
	return b.onGateway(context.Background())
}

// onGateway measures on the emulated arm64 gateway, with the package that
// `make deb` makes. The figures are those of an emulator: only their ratios
// mean something.
func (b *bench) onGateway(ctx context.Context) (rows []row, err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	deb, err := b.buildPackage(ctx)
	if err != nil {
		return nil, err
	}
	image, err := gateway.Build(ctx, log)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := gateway.Start(ctx, image, dir, log)
	if err != nil {
		return nil, err
	}
	defer m.Stop()
	if err := install(ctx, m, deb); err != nil {
		return nil, err
	}
	pss, err := gatewayMemory(ctx, m)
	if err != nil {
		return nil, err
	}
	rows = append(rows, pss)
	size, err := packageSize(ctx, m, deb)
	if err != nil {
		return rows, err
	}
	rows = append(rows, size)
	edgefn := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, b.bin, args...)
		cmd.Env = append(os.Environ(), "EDGEFN_NODE=ssh://gateway", "PATH="+m.Bin()+":"+os.Getenv("PATH"))
		return outputOf(cmd)
	}
	if _, err := edgefn("deploy", "--arch", "arm64", "testbed/bench/testdata/goedge"); err != nil {
		return rows, err
	}
	latency, err := gatewayEdges(ctx, m, dir)
	if err != nil {
		return rows, err
	}
	rows = append(rows, latency)
	changes, err := changeRows("to the emulated arm64 gateway by ssh", filepath.Join(dir, "change"), edgefn)
	return append(rows, changes...), err
}

// buildPackage makes the arm64 package.
func (b *bench) buildPackage(ctx context.Context) (string, error) {
	dist := filepath.Join(b.dir, "dist")
	cmd := exec.CommandContext(ctx, "go", "run", "./cross/package", "-arch", "arm64", "-o", dist)
	if _, err := outputOf(cmd); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dist, "*_arm64.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("find the package: %v, %w", found, err)
	}
	return found[0], nil
}

// install installs the package as its user does.
func install(ctx context.Context, m *gateway.Machine, deb string) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := m.Put(ctx, f, "/root/edgefn.deb"); err != nil {
		return err
	}
	if _, err := m.Run(ctx, "apt-get install -y /root/edgefn.deb"); err != nil {
		return err
	}
	if err := m.Put(ctx, strings.NewReader(gatewayConfig), "/etc/edgefn/config.yaml"); err != nil {
		return err
	}
	_, err = m.Run(ctx, "systemctl restart edgefn && edgefn status --wait 60s")
	return err
}

// gatewayMemory compares the idle node to the system's idle containerd.
func gatewayMemory(ctx context.Context, m *gateway.Machine) (row, error) {
	of := func(unit string) (float64, error) {
		out, err := m.Run(ctx, fmt.Sprintf("awk '/^Pss:/ {print $2}' /proc/$(systemctl show -p MainPID --value %s)/smaps_rollup", unit))
		if err != nil {
			return 0, err
		}
		kb, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		return kb / 1000, err
	}
	if _, err := m.Run(ctx, "sleep 10"); err != nil {
		return row{}, err
	}
	ours, err := of("edgefn")
	if err != nil {
		return row{}, err
	}
	theirs, err := of("containerd")
	return pair("PSS of the node, idle, no function, arm64", "MB", "its containerd, idle", ours, theirs), err
}

// packageSize compares the package to those that it stands on.
func packageSize(ctx context.Context, m *gateway.Machine, deb string) (row, error) {
	info, err := os.Stat(deb)
	if err != nil {
		return row{}, err
	}
	out, err := m.Run(ctx, "cat /srv/debian/containerd*.deb /srv/debian/runc*.deb | wc -c")
	if err != nil {
		return row{}, err
	}
	theirs, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	return pair("size of the arm64 package", "MB", "Debian's containerd and runc", float64(info.Size())/1e6, theirs/1e6), err
}

// gatewayEdges measures edges with a program on the gateway.
func gatewayEdges(ctx context.Context, m *gateway.Machine, dir string) (row, error) {
	program := filepath.Join(dir, "edges")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./testbed/bench/edges")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if _, err := outputOf(build); err != nil {
		return row{}, err
	}
	f, err := os.Open(program)
	if err != nil {
		return row{}, err
	}
	defer f.Close()
	if err := m.Put(ctx, f, "/root/edges"); err != nil {
		return row{}, err
	}
	out, err := m.Run(ctx, "chmod +x /root/edges && /root/edges")
	if err != nil {
		return row{}, err
	}
	var took struct{ Function, Reader []float64 }
	if err := json.Unmarshal([]byte(out), &took); err != nil {
		return row{}, err
	}
	r := pair("edge to function result, fresh Go process, p50, emulated arm64 gateway", "ms", "the same kernel's edge to a bare reader", quantile(took.Function, .5), quantile(took.Reader, .5))
	r.EdgefnP9, r.PlainP9 = quantile(took.Function, .9), quantile(took.Reader, .9)
	return r, nil
}

// outputOf runs a command; what it complains of becomes the error.
func outputOf(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return out, nil
}
