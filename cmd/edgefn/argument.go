package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxData bounds what an argument reads from a file or stdin, in bytes.
const maxData = 64 << 20

// data is what an argument TEXT, @FILE or - means.
func (a *app) data(cmd *cobra.Command, arg string) ([]byte, error) {
	var (
		r    io.Reader
		what string
	)
	name, isFile := strings.CutPrefix(arg, "@")
	switch {
	case arg == "-":
		r, what = a.in, "stdin"
	case isFile:
		f, err := os.Open(name)
		if err != nil {
			return nil, &usageError{text: fmt.Sprintf("read data: %v", err), hint: "@ names a file; text that begins with @ can come from stdin: -", err: err}
		}
		defer func() { _ = f.Close() }()
		r, what = f, name
	default:
		return []byte(arg), nil
	}
	b, err := io.ReadAll(io.LimitReader(r, maxData+1))
	if err != nil {
		return nil, fmt.Errorf("read data from %s: %w", what, err)
	}
	if len(b) > maxData {
		return nil, usagef(cmd, "data from %s is over %s", what, size(maxData))
	}
	return b, nil
}

// wants checks that a command has the arguments named; a name in brackets is
// one that may be left out.
func wants(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):least], " and "))
		case len(args) > len(names) && len(names) == 0:
			return fmt.Errorf("%s takes no arguments, and not %q", cmd.CommandPath(), args[0])
		case len(args) > len(names):
			return fmt.Errorf("%s takes no argument behind %s, and not %q", cmd.CommandPath(), strings.Join(names, " "), args[len(names)])
		}
		return nil
	}
}

// since is the time that an argument of --since means: a duration back from
// now, or a time as in RFC 3339.
func (a *app) since(cmd *cobra.Command, arg string) (time.Time, error) {
	if arg == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(arg); err == nil && d >= 0 {
		return a.now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, arg); err == nil {
		return t, nil
	}
	return time.Time{}, usagef(cmd, "--since %q is neither a duration such as 10m nor a time such as 2026-01-02T15:04:05Z", arg)
}
