package cross

import (
	"fmt"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Platform is what an image is made for: a processor, under Linux.
type Platform struct {
	Arch    string // as the go command names it: amd64, arm64, arm
	Variant string // v6 or v7 of arm; else empty
}

// Platforms lists every platform, in the order that help texts show them.
var Platforms = []Platform{{"amd64", ""}, {"arm64", ""}, {"arm", "v7"}, {"arm", "v6"}}

// String is the platform as in linux/arm/v7.
func (p Platform) String() string {
	s := "linux/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// platformNames maps what people and kernels say to a platform.
var platformNames = map[string]Platform{
	"amd64": {"amd64", ""}, "x86_64": {"amd64", ""},
	"arm64": {"arm64", ""}, "arm64/v8": {"arm64", ""}, "aarch64": {"arm64", ""},
	"arm": {"arm", "v7"}, "arm/v7": {"arm", "v7"}, "armv7": {"arm", "v7"}, "armv7l": {"arm", "v7"},
	"arm/v6": {"arm", "v6"}, "armv6": {"arm", "v6"}, "armv6l": {"arm", "v6"},
}

// ParsePlatform reads linux/arm/v7, arm/v7 or amd64.
func ParsePlatform(s string) (Platform, error) {
	p, ok := platformNames[strings.TrimPrefix(strings.ToLower(s), "linux/")]
	if !ok {
		return Platform{}, fmt.Errorf("platform %q is not known; use amd64, arm64, arm/v7 or arm/v6", s)
	}
	return p, nil
}

// Host is the platform of this machine. A 32-bit arm machine is taken for the
// least, v6, which all of them run.
func Host() Platform {
	p := Platform{Arch: runtime.GOARCH}
	if p.Arch == "arm" {
		p.Variant = "v6"
	}
	return p
}

// Runs reports whether a machine of platform p runs what was made for o: an arm
// machine runs what was made for older ones too.
func (p Platform) Runs(o Platform) bool { return fits(p, "linux", o.Arch, o.Variant) >= 0 }

func (p Platform) oci() *v1.Platform {
	return &v1.Platform{OS: "linux", Architecture: p.Arch, Variant: p.Variant}
}
