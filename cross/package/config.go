package main

import (
	"os"
	"strings"
)

// sampleFile has every key of the node's config and its default.
const sampleFile = "node/sample.yaml"

// configHead stands above what is in the node's sample.
const configHead = "# Take the # before a key away to set it, or add keys at the end.\n#\n"

// writeConfig writes the config that the package installs: the node's sample,
// in which every key is there and none is set, so that keys can be added at its
// end, and an upgrade to other defaults changes what nobody has set.
func writeConfig(name string) error {
	sample, err := os.ReadFile(sampleFile)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(packagedConfig(string(sample))), 0o600)
}

func packagedConfig(sample string) string {
	var b strings.Builder
	b.WriteString(configHead)
	for line := range strings.Lines(sample) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "#") {
			b.WriteByte('#')
		}
		b.WriteString(line)
	}
	return b.String()
}
