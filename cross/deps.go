package cross

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/functions/runtimes/golang"
)

// part is a layer to be: files below a folder of the image.
type part struct {
	dir   string
	files []file
}

// parts lists the layers of a function for one platform, dependencies first.
// temp is a folder for what is made on the way.
func (b *builder) parts(ctx context.Context, p Platform, temp string) ([]part, error) {
	files, err := collect(b.dir)
	if err != nil {
		return nil, err
	}
	code := part{"app", files}
	switch b.fn.Runtime {
	case functions.Go:
		program, err := b.compile(ctx, p, temp)
		if err != nil {
			return nil, err
		}
		return []part{{"app", []file{program}}}, nil
	case functions.Python:
		code, vendor := split(files, "vendor")
		deps, err := b.pip(ctx, temp)
		if err != nil {
			return nil, err
		}
		return nonEmpty(part{"app", vendor}, part{"app/.deps", deps}, part{"app", code}), nil
	case functions.Node:
		code, modules := split(files, "node_modules")
		installed, err := b.npm(ctx, temp)
		if err != nil {
			return nil, err
		}
		if installed != nil {
			return nonEmpty(part{"app/node_modules", installed}, part{"app", code}), nil
		}
		return nonEmpty(part{"app", modules}, part{"app", code}), nil
	case functions.Exec:
	}
	return []part{code}, nil
}

// split takes the files under top out of files.
func split(files []file, top string) (rest, under []file) {
	for _, f := range files {
		if f.name == top || strings.HasPrefix(f.name, top+"/") {
			under = append(under, f)
		} else {
			rest = append(rest, f)
		}
	}
	return rest, under
}

func nonEmpty(parts ...part) []part {
	var out []part
	for _, p := range parts {
		if len(p.files) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// command runs a tool in dir and returns what it printed if it failed.
func command(ctx context.Context, dir string, env []string, hint, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is not installed: %s", name, hint)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, strings.TrimSpace(out.String()))
	}
	return nil
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// compile builds the author's program with the SDK that this edgefn carries.
// The author's go.mod stays as it is: a copy of it names the SDK.
func (b *builder) compile(ctx context.Context, p Platform, temp string) (file, error) {
	b.step("compiling for " + p.String())
	sdk, mod := filepath.Join(temp, "sdk"), filepath.Join(temp, "go.mod")
	if err := golang.Write(sdk); err != nil {
		return file{}, err
	}
	overlay, err := b.overlay(sdk, temp)
	if err != nil {
		return file{}, err
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "go.mod"))
	if err != nil {
		return file{}, fmt.Errorf("a go function needs a go.mod (go mod init, in its folder): %w", err)
	}
	if err := os.WriteFile(mod, text, 0o600); err != nil {
		return file{}, err
	}
	if sum, err := os.ReadFile(filepath.Join(b.dir, "go.sum")); err == nil {
		if err := os.WriteFile(filepath.Join(temp, "go.sum"), sum, 0o600); err != nil {
			return file{}, err
		}
	}
	const hint = "install Go (apt install golang, or a newer one) to build go functions"
	env := append(p.goEnv(), "GOWORK=off")
	if err := command(ctx, b.dir, env, hint, "go", "mod", "edit",
		"-require", golang.Module+"@"+golang.Require, "-replace", golang.Module+"=./"+sdkFolder, mod); err != nil {
		return file{}, err
	}
	out := filepath.Join(temp, "function-"+p.Arch+p.Variant)
	args := []string{"build", "-modfile", mod, "-overlay", overlay, "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}
	// Modules, even where there is a vendor folder: that one cannot know the SDK.
	args = append(args, "-mod=mod", goPackage(b.fn.Handler[0]))
	if err := command(ctx, b.dir, env, hint, "go", args...); err != nil {
		return file{}, err
	}
	fi, err := os.Stat(out)
	if err != nil {
		return file{}, err
	}
	return file{name: strings.TrimPrefix(functions.GoProgram, functions.AppDir+"/"), from: out, exec: true, size: fi.Size()}, nil
}

// sdkFolder is where the SDK seems to be, in the author's folder. The path goes
// into the program, so it must not be that of a temporary folder.
const sdkFolder = ".edgefn-sdk"

// overlay tells the go command to see the SDK's files in sdkFolder.
func (b *builder) overlay(sdk, temp string) (string, error) {
	abs, err := filepath.Abs(b.dir)
	if err != nil {
		return "", err
	}
	es, err := os.ReadDir(sdk)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, e := range es {
		replace[filepath.Join(abs, sdkFolder, e.Name())] = filepath.Join(sdk, e.Name())
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(temp, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

func goPackage(handler string) string {
	if handler == "." || strings.HasPrefix(handler, "./") {
		return handler
	}
	return "./" + handler
}

// pip installs requirements.txt, with no network if there is a wheels folder.
func (b *builder) pip(ctx context.Context, temp string) ([]file, error) {
	if !exists(filepath.Join(b.dir, "requirements.txt")) {
		return nil, nil
	}
	b.step("installing python packages")
	target := filepath.Join(temp, "deps")
	args := []string{
		"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts", "--no-compile",
		"--only-binary=:all:", "--target", target, "-r", "requirements.txt",
	}
	if exists(filepath.Join(b.dir, "wheels")) {
		args = append(args, "--no-index", "--find-links", "wheels")
	}
	python := "/usr/bin/python3" // the one that a node with the same system runs
	if !exists(python) {
		python = "python3"
	}
	err := command(ctx, b.dir, []string{"PIP_ROOT_USER_ACTION=ignore", "PYTHONDONTWRITEBYTECODE=1"},
		"install it with pip (apt install python3-pip)", python, args...)
	if err != nil {
		if strings.Contains(err.Error(), "No module named pip") {
			return nil, errors.New("requirements.txt needs pip: apt install python3-pip, or put the packages into a vendor folder")
		}
		return nil, err
	}
	return walk(target, "", func(name string, _ bool) bool {
		base := filepath.Base(name)
		return base == "__pycache__" || base == "bin" && !strings.Contains(name, "/") || base == "direct_url.json" || base == "INSTALLER" || base == "REQUESTED" || base == "RECORD" && strings.Contains(name, ".dist-info")
	})
}

// npm installs what package-lock.json names, in a copy of the folder.
func (b *builder) npm(ctx context.Context, temp string) ([]file, error) {
	if !exists(filepath.Join(b.dir, "package-lock.json")) {
		return nil, nil
	}
	b.step("installing npm packages")
	dir := filepath.Join(temp, "npm")
	files, err := walk(b.dir, "", func(name string, _ bool) bool {
		return name == "node_modules" || strings.HasPrefix(name, "node_modules/") || name == ".git"
	})
	if err != nil {
		return nil, err
	}
	// The lock may name packages in the folder itself (file:), so all of it is there.
	for _, f := range files {
		to := filepath.Join(dir, filepath.FromSlash(f.name))
		switch {
		case f.dir:
			err = os.MkdirAll(to, 0o750)
		case f.link != "":
			err = os.Symlink(f.link, to)
		default:
			var text []byte
			if text, err = os.ReadFile(f.from); err == nil {
				if err = os.MkdirAll(filepath.Dir(to), 0o750); err == nil {
					err = os.WriteFile(to, text, 0o600)
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if err := command(ctx, dir, nil, "install it (apt install npm), or ship node_modules as it is", "npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--install-links"); err != nil {
		return nil, err
	}
	modules := filepath.Join(dir, "node_modules")
	if !exists(modules) {
		return []file{}, nil
	}
	return walk(modules, "node_modules", func(name string, _ bool) bool { return name == ".package-lock.json" || name == ".cache" })
}
