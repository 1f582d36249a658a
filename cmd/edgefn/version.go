package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// version and commit are set by the build: -ldflags "-X main.version=... -X main.commit=...".
var (
	version = ""
	commit  = ""
)

// nodeVersionTime is how long the node may take to tell its version.
const nodeVersionTime = 500 * time.Millisecond

// versionInfo is what edgefn version prints.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes that were not committed
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Node     string `json:"node,omitempty"` // version of the node, if it answers
}

// localVersion is the version of this binary: what the build set, else what Go
// knows of the source.
func localVersion() versionInfo {
	v := versionInfo{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && commit == "":
				v.Commit = s.Value
			case s.Key == "vcs.modified" && commit == "":
				v.Modified = s.Value == "true"
			}
		}
		if v.Version == "" && info.Main.Version != "" {
			v.Version = strings.TrimPrefix(info.Main.Version, "v")
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:     "version [-o table|json]",
		Short:   "Print the version of this command, and of the node if it answers",
		Long:    "version prints the version of this command, what it was built from, and the version of the node if one answers.",
		Example: "  edgefn version\n  edgefn version -o json",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := localVersion()
			v.Node = a.nodeVersion(cmd.Context())
			if out.json() {
				return a.printJSON(v)
			}
			t := newTable()
			t.row("edgefn:", v.Version)
			if v.Commit != "" {
				c := v.Commit
				if v.Modified {
					c += " with changes"
				}
				t.row("commit:", c)
			}
			t.row("go:", v.Go)
			t.row("platform:", v.Platform)
			if v.Node != "" {
				t.row("node:", v.Node)
			}
			return t.printTo(a.out)
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// nodeVersion is the node's version, empty if none answers soon.
func (a *app) nodeVersion(ctx context.Context) string {
	c, err := a.dial()
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, nodeVersionTime)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil {
		return ""
	}
	return st.Version
}
