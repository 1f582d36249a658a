package main

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// carryOnly writes an overlay for go build in which the folder that is embedded
// holds initFile as the edgefn-init of goarch, and no other: what make init left
// there for this machine would be carried to every other for nothing.
func carryOnly(stage, initFile, goarch string) (overlay string, err error) {
	dir, err := filepath.Abs(carriedDir)
	if err != nil {
		return "", err
	}
	others, err := filepath.Glob(filepath.Join(dir, "edgefn-init-*"))
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, f := range others {
		replace[f] = "" // is not there
	}
	replace[filepath.Join(dir, "edgefn-init-"+goarch)] = initFile
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(stage, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}
