// Command package makes the Debian packages of edgefn: for each architecture
// the program with the edgefn-init of that architecture in it, and with nfpm
// the package around it. It is what make deb runs, in the repository's root.
//
// The same commit gives the same bytes: times are the commit's and paths are
// trimmed. Where files differ from the commit's, the version says "dirty".
//
// The files beside this one are the package: its description for nfpm, the
// unit, and the scripts that dpkg runs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

// arches are Debian's names of architectures and what Go builds for them.
// armhf is ARMv6 with a floating point unit, the least that a Raspberry Pi has;
// Debian's own armhf is ARMv7, and runs it as well.
var arches = map[string][]string{
	"amd64": {"GOARCH=amd64", "GOAMD64=v1"},
	"arm64": {"GOARCH=arm64", "GOARM64=v8.0"},
	"armhf": {"GOARCH=arm", "GOARM=6"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

// run makes the packages that args name and prints a line for each.
func run(ctx context.Context, args []string, out io.Writer) error {
	fl := flag.NewFlagSet("package", flag.ContinueOnError)
	nfpm := fl.String("nfpm", "bin/tools/nfpm", "the program nfpm")
	dist := fl.String("o", "dist", "folder for the packages")
	arch := fl.String("arch", "arm64,armhf,amd64", "architectures, by Debian's names")
	given := fl.String("version", "", "version of the package (default what git says)")
	if err := fl.Parse(args); err != nil {
		return err
	}
	tree, err := describe(ctx)
	if err != nil {
		return err
	}
	version := *given
	if version == "" {
		version = tree.version()
	}
	if err := os.MkdirAll(*dist, 0o755); err != nil { //nolint:gosec // what is in it is for everybody
		return err
	}
	stage, err := os.MkdirTemp("", "edgefn-deb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage) //nolint:errcheck // a temporary folder
	if err := completions(ctx, stage); err != nil {
		return err
	}
	if err := writeConfig(filepath.Join(stage, "config.yaml")); err != nil {
		return err
	}
	for name := range strings.SplitSeq(*arch, ",") {
		target, ok := arches[name]
		if !ok {
			return fmt.Errorf("architecture %q is not known: it is one of amd64, arm64, armhf", name)
		}
		p := pack{nfpm: *nfpm, stage: stage, arch: name, target: target, version: version, tree: tree}
		p.file = filepath.Join(*dist, fmt.Sprintf("edgefn_%s_%s.deb", version, name))
		if err := p.build(ctx); err != nil {
			return fmt.Errorf("package for %s: %w", name, err)
		}
		if err := p.wrap(ctx); err != nil {
			return fmt.Errorf("package for %s: %w", name, err)
		}
		fi, err := os.Stat(p.file)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s  %.1f MB\n", p.file, float64(fi.Size())/1e6); err != nil {
			return err
		}
	}
	return nil
}

// pack is a package to be.
type pack struct {
	nfpm, arch, version, file string
	stage                     string   // folder for what is built
	target                    []string // environment of go build
	tree                      tree
}

// carriedDir holds an edgefn-init per architecture that was built here; a
// build embeds what is in it.
const carriedDir = "functions/sandbox/carried"

// build builds what is in the package for one architecture alone.
func (p *pack) build(ctx context.Context) error {
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	env = append(env, p.target...)
	initFile := filepath.Join(p.stage, "edgefn-init")
	if err := command(ctx, env, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", initFile, "./functions/init"); err != nil {
		return err
	}
	overlay, err := carryOnly(p.stage, initFile, p.goarch())
	if err != nil {
		return err
	}
	ldflags := fmt.Sprintf("-s -w -buildid= -X main.version=%s -X main.commit=%s", p.version, p.tree.hash)
	if err := command(ctx, env, "go", "build", "-trimpath", "-buildvcs=false", "-overlay", overlay, "-ldflags="+ldflags, "-o", filepath.Join(p.stage, "edgefn"), "./cmd/edgefn"); err != nil {
		return err
	}
	return writeCopyright(ctx, env, filepath.Join(p.stage, "copyright"))
}

// wrap makes the package of what was built.
func (p *pack) wrap(ctx context.Context) error {
	env := append(os.Environ(), "ARCH="+p.arch, "VERSION="+p.version, "STAGE="+p.stage, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", p.tree.time.Unix()))
	return command(ctx, env, p.nfpm, "package", "--config", "cross/package/nfpm.yaml", "--packager", "deb", "--target", p.file)
}

func (p *pack) goarch() string { return strings.TrimPrefix(p.target[0], "GOARCH=") }

// completions writes the scripts of the shells into dir, asking a program for
// this machine.
func completions(ctx context.Context, dir string) error {
	env := append(os.Environ(), "CGO_ENABLED=0")
	program := filepath.Join(dir, "edgefn-here")
	if err := command(ctx, env, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, "./cmd/edgefn"); err != nil {
		return err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := output(ctx, env, program, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "completion."+shell), script, 0o600); err != nil {
			return err
		}
	}
	return os.Remove(program)
}

// command runs a program; what it said is in the error if it fails.
func command(ctx context.Context, env []string, name string, args ...string) error {
	_, err := output(ctx, env, name, args...)
	return err
}

// output is what a program writes to stdout.
func output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return stdout.Bytes(), nil
}

// tree is what git says of the sources.
type tree struct {
	described string // "v1.2.3-4-g61bd209", or empty if there is no tag of a version
	hash      string // abbreviated
	time      time.Time
	dirty     bool // there are changes that are not committed
}

// describe asks git.
func describe(ctx context.Context) (tree, error) {
	env := append(os.Environ(), "TZ=UTC")
	last, err := output(ctx, env, "git", "log", "-1", "--format=%h %ct")
	if err != nil {
		return tree{}, err
	}
	var (
		t    tree
		unix int64
	)
	if _, err := fmt.Sscan(string(last), &t.hash, &unix); err != nil {
		return tree{}, fmt.Errorf("git log: %q: %w", last, err)
	}
	t.time = time.Unix(unix, 0).UTC()
	changed, err := output(ctx, env, "git", "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return tree{}, err
	}
	t.dirty = len(changed) > 0
	// With no tag it fails, and that is an answer as well.
	described, err := output(ctx, env, "git", "describe", "--tags", "--long", "--match", "v[0-9]*")
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		return tree{}, err
	}
	t.described = strings.TrimSpace(string(described))
	return t, nil
}

// version is that of the package, in dpkg's order (deb-version(7)), where "~"
// sorts before the end and "+" after it:
//
//	v1.2.3                         1.2.3
//	v1.3.0-rc.1                    1.3.0~rc.1
//	4 commits after v1.2.3         1.2.3+4.g61bd209
//	no tag                         0.0~git20261126.135600.61bd209, by the commit's time
//	changes that are not committed the same with +dirty
func (t tree) version() string {
	version := "0.0~git" + t.time.Format("20060102.150405") + "." + t.hash
	if t.described != "" {
		// From the right: a tag has hyphens of its own.
		rest, hash := cutLast(t.described, "-")
		tag, ahead := cutLast(rest, "-")
		version = strings.ReplaceAll(strings.TrimPrefix(tag, "v"), "-", "~")
		if ahead != "0" {
			version += "+" + ahead + "." + hash
		}
	}
	if t.dirty {
		version += "+dirty"
	}
	return version
}

// cutLast is strings.Cut around the last sep.
func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}
