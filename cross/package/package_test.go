package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/node"
)

// TestMain runs the tests where make runs the program: in the repository's root.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func say(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not there: this is no Debian", p)
		}
	}
}

func TestVersion(t *testing.T) {
	at := time.Date(2026, 11, 26, 13, 56, 0, 0, time.UTC)
	of := func(described string, dirty bool) string {
		return tree{described: described, hash: "61bd209", time: at, dirty: dirty}.version()
	}
	// In dpkg's order.
	versions := []string{
		of("", false),
		of("", true),
		tree{hash: "0000000", time: at.Add(time.Second)}.version(),
		of("v0.1.0-0-g61bd209", false),
		of("v1.2.3-rc.1-0-g61bd209", false),
		of("v1.2.3-rc.1-2-g61bd209", false),
		of("v1.2.3-rc.2-0-g61bd209", false),
		of("v1.2.3-0-g61bd209", false),
		of("v1.2.3-4-g61bd209", false),
		of("v1.2.3-4-g61bd209", true),
		of("v1.2.3-10-g61bd209", false),
		of("v1.2.4-0-g61bd209", false),
	}
	want := []string{
		"0.0~git20261126.135600.61bd209", "0.0~git20261126.135600.61bd209+dirty", "0.0~git20261126.135601.0000000",
		"0.1.0", "1.2.3~rc.1", "1.2.3~rc.1+2.g61bd209", "1.2.3~rc.2", "1.2.3", "1.2.3+4.g61bd209", "1.2.3+4.g61bd209+dirty",
		"1.2.3+10.g61bd209", "1.2.4",
	}
	if d := cmp.Diff(want, versions); d != "" {
		t.Fatalf("versions (-want +got):\n%s", d)
	}
	needs(t, "dpkg")
	for i := range len(versions) - 1 {
		say(t, "dpkg", "--validate-version", versions[i])
		say(t, "dpkg", "--compare-versions", versions[i], "lt", versions[i+1])
	}
}

// A build for another machine carries the edgefn-init of that one alone,
// whatever make init left here.
func TestCarryOnly(t *testing.T) {
	stage := t.TempDir()
	file := filepath.Join(stage, "edgefn-init")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for arch, target := range arches {
		goarch := strings.TrimPrefix(target[0], "GOARCH=")
		overlay, err := carryOnly(stage, file, goarch)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "list", "-overlay", overlay, "-f", "{{.EmbedFiles}}", "./functions/sandbox")
		cmd.Env = append(os.Environ(), target...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(out)), "[carried/README carried/edgefn-init-"+goarch+"]"; got != want {
			t.Errorf("%s carries %s, want %s", arch, got, want)
		}
	}
}

// A node's mounts must be seen by the system's containerd, so its unit may say
// nothing that gives it a mount namespace of its own (systemd.exec(5)).
func TestUnitSharesTheMounts(t *testing.T) {
	b, err := os.ReadFile("cross/package/edgefn.service")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(string(b)) {
		if key, _, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			keys = append(keys, key)
		}
	}
	for _, key := range []string{
		"PrivateMounts", "PrivateTmp", "PrivateDevices", "PrivateUsers", "ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset",
		"ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "MountFlags", "RootDirectory",
		"ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "BindPaths", "TemporaryFileSystem", "RestrictNamespaces", "DynamicUser",
	} {
		if slices.Contains(keys, key) {
			t.Errorf("the unit has %s", key)
		}
	}
	for _, key := range []string{"Type", "Restart", "ExecStopPost", "CapabilityBoundingSet", "SystemCallFilter", "NoNewPrivileges", "WatchdogSec"} {
		if !slices.Contains(keys, key) {
			t.Errorf("the unit has no %s", key)
		}
	}
}

// The installed config sets nothing, so a key can be added at its end.
func TestPackagedConfig(t *testing.T) {
	text := packagedConfig(node.SampleConfig)
	got, err := node.ParseConfig("config.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(node.Defaults(), got); d != "" {
		t.Errorf("config (-defaults +installed):\n%s", d)
	}
	got, err = node.ParseConfig("config.yaml", []byte(text+"devices:\n  door: {line: GPIO17}\nname: gw\n"))
	if err != nil || len(got.Devices) != 1 || got.Name != "gw" {
		t.Errorf("with keys at the end: %+v, %v", got, err)
	}
	// What was taken away comes back as the sample has it.
	again := strings.TrimPrefix(regexp.MustCompile(`(?m)^#((?:  )*[a-z_]+:)`).ReplaceAllString(text, "$1"), configHead)
	if d := cmp.Diff(node.SampleConfig, again); d != "" {
		t.Errorf("keys set again (-sample +got):\n%s", d)
	}
}

// hostArch is Debian's name of this machine.
func hostArch(t *testing.T) string {
	t.Helper()
	needs(t, "dpkg", "dpkg-deb")
	arch := say(t, "dpkg", "--print-architecture")
	if arches[arch] == nil {
		t.Skipf("there is no package for %s", arch)
	}
	return arch
}

// build makes the package for this machine.
func build(t *testing.T, version string) (file string) {
	t.Helper()
	if _, err := os.Stat("bin/tools/nfpm"); err != nil {
		t.Fatal("bin/tools/nfpm is not there: make bin/tools/nfpm")
	}
	dist := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-o", dist, "-arch", hostArch(t), "-version", version}, &out); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dist, "edgefn_"+version+"_"+hostArch(t)+".deb")
	if !strings.Contains(out.String(), file) {
		t.Errorf("the package is not named: %s", &out)
	}
	return file
}

// The package has what it should, installs, is upgraded and removed with its
// state left alone, and leaves nothing when it is purged.
func TestPackage(t *testing.T) {
	file := build(t, "1.0")
	contents(t, file)
	if os.Geteuid() != 0 {
		t.Skip("installing needs root")
	}
	root := hostCopy(t)
	install(t, root, file)
}

func contents(t *testing.T, file string) {
	t.Helper()
	field := func(name string) string { return say(t, "dpkg-deb", "--field", file, name) }
	for name, want := range map[string]string{
		"Package": "edgefn", "Version": "1.0", "Architecture": hostArch(t), "Recommends": "python3",
		"Depends": "containerd (>= 1.6) | containerd.io (>= 1.6), runc",
	} {
		if got := field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := say(t, "dpkg-deb", "--info", file, "conffiles"); got != "/etc/edgefn/config.yaml" {
		t.Errorf("conffiles are %q", got)
	}
	modes := map[string]string{}
	for line := range strings.Lines(say(t, "dpkg-deb", "--contents", file)) {
		f := strings.Fields(line)
		modes[f[5]] = f[0] + " " + f[1]
	}
	for name, want := range map[string]string{
		"./usr/bin/edgefn": "-rwxr-xr-x root/root", "./etc/edgefn/config.yaml": "-rw-r--r-- root/root", "./etc/edgefn/secrets/": "drwx------ root/root",
		"./usr/lib/systemd/system/edgefn.service": "-rw-r--r-- root/root", "./usr/share/doc/edgefn/copyright": "-rw-r--r-- root/root",
		"./usr/share/bash-completion/completions/edgefn":    "-rw-r--r-- root/root",
		"./usr/share/zsh/vendor-completions/_edgefn":        "-rw-r--r-- root/root",
		"./usr/share/fish/vendor_completions.d/edgefn.fish": "-rw-r--r-- root/root",
	} {
		if modes[name] != want {
			t.Errorf("%s is %q, want %q", name, modes[name], want)
		}
	}
}

// hostCopy is this machine's root with changes that go with the test; the
// packages that ours depends on are installed there.
func hostCopy(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	mount := func(source, target, kind, options string) {
		t.Helper()
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount(source, target, kind, 0, options); err != nil {
			t.Fatalf("mount %s: %v", kind, err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	changes := filepath.Join(base, "changes")
	mount("tmpfs", changes, "tmpfs", "size=512m")
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(changes, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(base, "root")
	mount("overlay", root, "overlay", "lowerdir=/,upperdir="+changes+"/upper,workdir="+changes+"/work")
	mount("proc", filepath.Join(root, "proc"), "proc", "")
	mount("tmpfs", filepath.Join(root, "run"), "tmpfs", "") // with no systemd in it, so nothing is started
	return root
}

func install(t *testing.T, root, file string) {
	t.Helper()
	in := func(args ...string) string { return say(t, "chroot", append([]string{root}, args...)...) }
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(root, name))
		return err == nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, groups := edgefnFiles(t, root), read("etc/group")
	write("tmp/one.deb", string(b))
	in("dpkg", "--install", "/tmp/one.deb")
	if got := in("edgefn", "version", "--node", "/nowhere.sock"); !strings.Contains(got, "1.0\n") {
		t.Errorf("edgefn version says %s", got)
	}
	in("getent", "group", "edgefn")
	if !has("etc/systemd/system/multi-user.target.wants/edgefn.service") {
		t.Error("the unit is not enabled")
	}
	if said := in("sh", "-c", "! command -v systemd-analyze >/dev/null || { systemd-analyze verify --recursive-errors=no edgefn.service 2>&1 || true; }"); said != "" {
		for line := range strings.Lines(said) {
			// systemd before 254 does not know these.
			if !strings.Contains(line, "RestartSteps") && !strings.Contains(line, "RestartMaxDelaySec") {
				t.Errorf("systemd-analyze: %s", line)
			}
		}
	}

	// An upgrade and a removal leave what is the user's alone.
	write("etc/edgefn/config.yaml", "name: mine\n")
	write("etc/edgefn/secrets/db", "secret")
	write("var/lib/edgefn/store/x", "state")
	in("sh", "-c", "dpkg-deb --raw-extract /tmp/one.deb /tmp/two && sed -i 's/^Version: 1.0/Version: 1.1/' /tmp/two/DEBIAN/control && dpkg-deb -Znone --build /tmp/two /tmp/two.deb && rm -r /tmp/two")
	for _, step := range [][]string{{"dpkg", "--install", "/tmp/two.deb"}, {"dpkg", "--remove", "edgefn"}} {
		in(step...)
		for name, want := range map[string]string{"etc/edgefn/config.yaml": "name: mine\n", "etc/edgefn/secrets/db": "secret", "var/lib/edgefn/store/x": "state"} {
			if got := read(name); got != want {
				t.Errorf("%v changed %s to %q", step, name, got)
			}
		}
	}
	if has("usr/bin/edgefn") {
		t.Error("removed, and the program is there")
	}

	in("dpkg", "--install", "/tmp/two.deb")
	in("dpkg", "--purge", "edgefn")
	if d := cmp.Diff(before, edgefnFiles(t, root)); d != "" {
		t.Errorf("purged, and left behind (-before +after):\n%s", d)
	}
	if got := read("etc/group"); got != groups {
		t.Errorf("groups changed: %s", cmp.Diff(groups, got))
	}
	if got := in("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Package}\n"); strings.Contains(got, "edgefn") {
		t.Error("dpkg still knows the package")
	}
}

// edgefnFiles lists what bears the package's name, where packages put things.
func edgefnFiles(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{"etc", "run", "usr/bin", "usr/lib/systemd", "usr/share", "var/lib"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.Contains(filepath.Base(path), "edgefn") {
				found = append(found, strings.TrimPrefix(path, root))
			}
			return nil // what cannot be read is not ours
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// The same files at the same commit give the same package.
func TestReproducible(t *testing.T) {
	p := pack{nfpm: "bin/tools/nfpm", arch: hostArch(t), version: "1.0", stage: t.TempDir(), tree: tree{time: time.Unix(1790000000, 0)}}
	for _, name := range []string{"edgefn", "completion.bash", "completion.zsh", "completion.fish", "config.yaml", "copyright"} {
		if err := os.WriteFile(filepath.Join(p.stage, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var packages [2][]byte
	for i := range packages {
		p.file = filepath.Join(t.TempDir(), "edgefn.deb")
		// Files are newer the second time.
		at := time.Unix(1790000000+int64(i)*3600, 0)
		if err := os.Chtimes(filepath.Join(p.stage, "edgefn"), at, at); err != nil {
			t.Fatal(err)
		}
		if err := p.wrap(t.Context()); err != nil {
			t.Fatal(err)
		}
		var err error
		if packages[i], err = os.ReadFile(p.file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packages[0], packages[1]) {
		t.Error("two packages of the same differ")
	}
}
