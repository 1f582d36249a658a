package sandbox

import (
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What containerd's library says of machines, and what each of them runs.
func TestPlatforms(t *testing.T) {
	manifest := func(arch, variant string) ocispec.Descriptor {
		return ocispec.Descriptor{Platform: &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	all := map[string]ocispec.Descriptor{
		"linux/amd64": manifest("amd64", ""), "linux/arm64": manifest("arm64", ""),
		"linux/arm/v7": manifest("arm", "v7"), "linux/arm/v6": manifest("arm", "v6"),
	}
	for _, c := range []struct {
		machine string
		here    ocispec.Platform
		name    string
		runs    []string // of all, the best first
	}{
		{"a laptop", ocispec.Platform{OS: "linux", Architecture: "amd64"}, "linux/amd64", []string{"linux/amd64"}},
		{"Raspberry Pi 4, 64-bit", ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "linux/arm64", []string{"linux/arm64"}},
		{"Raspberry Pi 4, 32-bit under a 64-bit kernel", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v8"}, "linux/arm/v7", []string{"linux/arm/v7", "linux/arm/v6"}},
		{"Raspberry Pi 2", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, "linux/arm/v7", []string{"linux/arm/v7", "linux/arm/v6"}},
		{"Raspberry Pi Zero", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, "linux/arm/v6", []string{"linux/arm/v6"}},
	} {
		t.Run(c.machine, func(t *testing.T) {
			if got := platformName(c.here); got != c.name {
				t.Errorf("it is called %s, want %s", got, c.name)
			}
			can := map[string]bool{}
			for _, p := range c.runs {
				can[p] = true
			}
			for p, m := range all {
				err := checkPlatform([]ocispec.Descriptor{{}, m}, c.here)
				if (err == nil) != can[p] {
					t.Errorf("an image for %s: %v", p, err)
				}
				if err != nil && (!errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), c.name)) {
					t.Errorf("the error does not name %s and %s: %v", p, c.name, err)
				}
			}
			if len(c.runs) == 2 && !runs(c.here).Less(*all[c.runs[0]].Platform, *all[c.runs[1]].Platform) {
				t.Errorf("it does not prefer %s to %s", c.runs[0], c.runs[1])
			}
		})
	}
	if err := checkPlatform(nil, ocispec.Platform{OS: "linux", Architecture: "amd64"}); !errors.Is(err, ErrPlatform) {
		t.Errorf("an image for nothing: %v", err)
	}
}
