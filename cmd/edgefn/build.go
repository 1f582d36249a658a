package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/functions/manifest"
)

func (a *app) buildCommand() *cobra.Command {
	var (
		archs []string
		path  string
	)
	cmd := &cobra.Command{
		Use:   "build DIR [--arch A,B] -o PATH",
		Short: "Build a function's image",
		Long: "build makes an OCI image index of the function in a folder and writes it as an OCI layout:\n" +
			"a folder, or a tar where PATH ends in .tar. The same source gives the same digest.\n\n" + platformHelp,
		Example: "  edgefn build fan -o fan.tar\n  edgefn build fan --arch amd64,arm64,arm/v7 -o out/fan",
		Args:    wants("DIR"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if path == "" {
				return usagef(cmd, "-o PATH is missing: where the image goes")
			}
			f, err := manifest.Load(args[0])
			if err != nil {
				return configError(err)
			}
			img, err := a.build(cmd.Context(), f.Name, buildRequest{dir: args[0], platforms: archs})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, img.Close()) }()
			if err := writeImage(img, path); err != nil {
				return err
			}
			t := newTable()
			t.row("name:", f.Name)
			t.row("version:", img.Digest())
			t.row("written:", path)
			return t.printTo(a.out)
		},
		ValidArgsFunction: folders,
	}
	archFlag(cmd, &archs, "those of this machine")
	cmd.Flags().StringVarP(&path, "output", "o", "", "folder or .tar file to write")
	return cmd
}

// platformHelp is what build and deploy say of platforms.
const platformHelp = "Any machine builds for any gateway, with no emulator: go functions are compiled for each\n" +
	"platform, and code in Python or JavaScript serves all. What is native is given for each:\n" +
	"Python packages as wheels, from the index or in the function's wheels folder; addons and\n" +
	"programs in platform/linux-arm64, platform/linux-arm-v7 and so on, which are laid over the\n" +
	"other files. A native file that does not serve a platform named is refused."

// archError is a platform that is not known.
func archError(err error) error {
	return &usageError{text: err.Error(), hint: "--arch names the platforms", err: err}
}

func archFlag(cmd *cobra.Command, archs *[]string, def string) {
	cmd.Flags().StringSliceVar(archs, "arch", nil, "platforms to build for: amd64, arm64, arm/v7, arm/v6 (default "+def+")")
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("arch", cobra.FixedCompletions([]string{"amd64", "arm64", "arm/v7", "arm/v6"}, noFiles))
}

// folders completes folders.
func folders(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// build builds a function and shows how it goes on. The caller closes the image.
func (a *app) build(ctx context.Context, name string, b buildRequest) (image, error) {
	p := a.progress("building " + name)
	defer p.end()
	b.step = p.step
	return a.tools.Build(ctx, b)
}

// writeImage writes img to path. A tar takes its place when it is whole.
func writeImage(img image, path string) (err error) {
	if !strings.HasSuffix(path, ".tar") {
		if es, err := os.ReadDir(path); err == nil && len(es) > 0 && !isLayout(path) {
			return &usageError{text: fmt.Sprintf("write image: folder %s holds other things than an image", path), hint: "name a new folder, or an empty one"}
		}
		if err := img.WriteLayout(path); err != nil {
			return fmt.Errorf("write image to %s: %w", path, err)
		}
		return nil
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // an image is no secret
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part) // what matters is why it could not be written
		}
	}()
	if err := errors.Join(img.WriteTar(f), f.Close()); err != nil {
		return fmt.Errorf("write image to %s: %w", path, err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// isLayout reports whether a folder is an OCI layout, which may be written anew.
func isLayout(dir string) bool {
	_, err := os.Stat(dir + "/oci-layout")
	return !errors.Is(err, fs.ErrNotExist)
}
