package gateway

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	arch    = "arm64"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// mirror is where this machine gets Debian from.
type mirror struct {
	debian   string // URI of the archive
	security string // URI of its security updates; empty if the machine has none
}

// findMirror asks this machine's apt, so that whatever way its sources are
// written in is understood.
func findMirror(ctx context.Context) (mirror, error) {
	out, err := output(ctx, "apt-get", "indextargets", "--format", "$(LABEL)\t$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return mirror{}, err
	}
	var m mirror
	for line := range strings.Lines(string(out)) {
		label, uri, _ := strings.Cut(strings.TrimSpace(line), "\t")
		switch label {
		case "Debian":
			m.debian = uri
		case "Debian-Security":
			m.security = uri
		}
	}
	if m.debian == "" {
		return mirror{}, fmt.Errorf("apt on this machine knows no Debian archive: its sources name none, or `apt-get update` was never run")
	}
	return m, nil
}

// apt is an apt for another architecture with a state of its own in dir, which
// leaves this machine's packages alone.
type apt struct{ dir string }

// newAPT makes an apt for the given suites and brings its lists up to date.
func newAPT(ctx context.Context, dir string, sources ...string) (apt, error) {
	a := apt{dir}
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return apt{}, err
		}
	}
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&list, "deb [signed-by=%s] %s main\n", keyring, s)
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(list.String()), 0o644); err != nil {
		return apt{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return apt{}, err
	}
	_, err := a.run(ctx, "apt-get", "update")
	return a, err
}

func (a apt) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	return outputOf(a.command(ctx, program, args...))
}

func (a apt) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, program, append([]string{
		"--quiet", "--option=APT::Architecture=" + arch, "--option=APT::Architectures::=" + arch,
		"--option=APT::Install-Recommends=false", "--option=APT::Sandbox::User=root",
		"--option=Dir::State=" + a.dir, "--option=Dir::State::status=" + a.dir + "/status",
		"--option=Dir::State::Lists=" + a.dir + "/lists", "--option=Dir::Cache=" + a.dir,
		"--option=Dir::Cache::Archives=" + a.dir + "/archives", "--option=Dir::Etc::SourceList=" + a.dir + "/sources.list",
		"--option=Dir::Etc::SourceParts=-", "--option=Dir::Etc::Preferences=-", "--option=Dir::Etc::PreferencesParts=-",
		"--option=Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", // descriptions for software centres
	}, args...)...)
}

// closure tells what an empty machine would get by installing packages: their
// names with all that they depend on.
func (a apt) closure(ctx context.Context, packages ...string) ([]string, error) {
	out, err := a.run(ctx, "apt-get", append([]string{"install", "--simulate"}, packages...)...)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) { // Inst NAME (VERSION ORIGIN [ARCH])
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Inst" {
			names = append(names, f[1])
		}
	}
	return names, nil
}

// download fetches packages and returns their files by name. A file that is
// there and is right is not fetched again.
func (a apt) download(ctx context.Context, names []string) (map[string]string, error) {
	folder := filepath.Join(a.dir, "archives")
	cmd := a.command(ctx, "apt-get", append([]string{"download"}, names...)...)
	cmd.Dir = folder
	if _, err := outputOf(cmd); err != nil {
		return nil, err
	}
	out, err := a.run(ctx, "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for stanza := range strings.SplitSeq(string(out), "\n\n") {
		name, version := field(stanza, "Package"), field(stanza, "Version")
		if name == "" {
			continue
		}
		base := fmt.Sprintf("%s_%s_%s.deb", name, strings.ReplaceAll(version, ":", "%3a"), field(stanza, "Architecture"))
		files[name] = filepath.Join(folder, base)
	}
	for _, name := range names {
		if _, err := os.Stat(files[name]); err != nil {
			return nil, fmt.Errorf("find the package %s that apt downloaded: %w", name, err)
		}
	}
	return files, nil
}

// field is a field of a control stanza, on one line.
func field(stanza, name string) string {
	for line := range strings.Lines(stanza) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// output runs a program and returns what it prints; what it complains of
// becomes the error.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	return outputOf(exec.CommandContext(ctx, program, args...))
}

func outputOf(cmd *exec.Cmd) ([]byte, error) {
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s: %w\n%s", cmd.Args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
