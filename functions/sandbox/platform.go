package sandbox

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// runs matches what this machine, which is here, runs, the best first: a 32-bit
// arm machine what was made for older ones too, any other its own alone. An
// arm64 processor may be unable to run 32-bit programs, and the runtimes of an
// arm64 gateway cannot load what is made for 32 bits.
func runs(here ocispec.Platform) platforms.MatchComparer {
	if here.Architecture == "arm" {
		return platforms.Only(here)
	}
	return platforms.OnlyStrict(here)
}

// checkPlatform refuses an image that this machine, which is here, cannot run.
func checkPlatform(manifests []ocispec.Descriptor, here ocispec.Platform) error {
	match := runs(here)
	var found []string
	for _, m := range manifests {
		if m.Platform == nil {
			continue
		}
		if match.Match(*m.Platform) {
			return nil
		}
		found = append(found, platforms.Format(*m.Platform))
	}
	return fmt.Errorf("%w: it is for %s, this node is %s", ErrPlatform, strings.Join(found, ", "), platformName(here))
}

// Platform is what this machine runs, in the words of edgefn deploy: linux/amd64,
// linux/arm64, linux/arm/v7 or linux/arm/v6. What counts is this program, which
// may be a 32-bit one under a 64-bit kernel, and of 32-bit arm the processor.
func (h *Host) Platform() string { return platformName(platforms.DefaultSpec()) }

// platformName leaves out the variant where there is but one to build for: a
// 64-bit arm processor is v8 to containerd, and runs v7 for a 32-bit program.
func platformName(p ocispec.Platform) string {
	name := p.OS + "/" + p.Architecture
	switch {
	case p.Architecture != "arm":
		return name
	case p.Variant == "v8":
		return name + "/v7"
	}
	return name + "/" + p.Variant
}
