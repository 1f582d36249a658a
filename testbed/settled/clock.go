package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// skewVariable names the file with the seconds that a node's clock is off.
const skewVariable = "CLOCK_SKEW"

// skewSource is added to package time. What time.Now counts in is off, what it
// measures durations with is not: that is what setting a machine's clock does.
const skewSource = `package time

import (
	"sync/atomic"
	"syscall"
)

var skewSeconds atomic.Int64

func init() {
	path, ok := syscall.Getenv("` + skewVariable + `")
	if !ok {
		return
	}
	readSkew(path)
	go func() {
		for {
			Sleep(50 * Millisecond)
			readSkew(path)
		}
	}()
}

func readSkew(path string) {
	fd, err := open(path)
	if err != nil {
		return
	}
	defer closefd(fd)
	var buf [32]byte
	n, err := read(fd, buf[:])
	if err != nil || n == 0 {
		return
	}
	sign, v := int64(1), int64(0)
	for _, c := range buf[:n] {
		switch {
		case c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			v = v*10 + int64(c-'0')
		}
	}
	skewSeconds.Store(sign * v)
}

func skewedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	return sec + skewSeconds.Load(), nsec, mono
}
`

// buildSkewed builds a program, a node as a rule, with a clock of its own: its package time reads how
// far it is off from a file. Nothing else of it differs from bin/edgefn.
func buildSkewed(ctx context.Context, root, dir, pkgPath string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find Go's own source: %w", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	source, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	changed := strings.Replace(string(source), now, strings.Replace(now, "runtimeNow", "skewedNow", 1), 1)
	if changed == string(source) {
		return "", errors.New("give the node a clock of its own: this version of Go has another time.Now than the one that is known here")
	}
	files := map[string]string{"time.go": changed, "skew.go": skewSource}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(pkg, name)] = path
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	listed, bin := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "edgefn-clock")
	if err := os.WriteFile(listed, list, 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-overlay", listed, "-o", bin, pkgPath)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build a node with a clock of its own: %w: %s", err, out)
	}
	return bin, nil
}

// setSkew sets how far the clock of a node is off that was started with path.
func setSkew(path string, by time.Duration) error {
	// Renamed into place: the node never reads half a number.
	part := path + ".part"
	if err := os.WriteFile(part, []byte(strconv.FormatInt(int64(by/time.Second), 10)), 0o644); err != nil {
		return err
	}
	return os.Rename(part, path)
}
