package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

func (a *app) stateExportCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "export FUNCTION [FILE|-] [--prefix P]",
		Short: "Write the whole state to a file",
		Long: "export writes all keys of a function, or those that begin with a prefix, as they are at one\n" +
			"moment, to a file or to stdout: JSON Lines of {\"key\": TEXT, \"value\": BASE64}.",
		Example:           "  edgefn state export fan fan.jsonl\n  edgefn state export fan --prefix sensors/ | jq -r .key",
		Args:              wants("FUNCTION", "[FILE]"),
		ValidArgsFunction: a.thenFiles(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			keys, bytes := 0, 0
			write := func(w io.Writer) error {
				buf := bufio.NewWriter(w)
				enc := json.NewEncoder(buf)
				enc.SetEscapeHTML(false)
				err := c.StateExport(cmd.Context(), args[0], prefix, func(e api.StateEntry) error {
					keys++
					bytes += len(e.Value)
					return written(enc.Encode(e))
				})
				if err != nil {
					return err
				}
				return written(buf.Flush())
			}
			if len(args) == 1 || args[1] == "-" {
				return write(a.out)
			}
			if err := writeWhole(args[1], write); err != nil {
				return err
			}
			a.message("%s with %s of values", count(keys, "key", "keys"), size(int64(bytes)))
			return nil
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only keys that begin with this")
	return cmd
}

func (a *app) stateImportCommand() *cobra.Command {
	var (
		out     *format
		replace bool
	)
	cmd := &cobra.Command{
		Use:   "import FUNCTION [FILE|-] [--replace] [-o table|json]",
		Short: "Write keys from a file into the state",
		Long: "import writes the keys of a file, or of stdin, as export writes them. All lines are checked before\n" +
			"the first key is written. Keys that the file does not have stay, or go with --replace. It takes many\n" +
			"transactions: the function may see a part of it meanwhile, and after a failure it is to be done again.",
		Example:           "  edgefn state import fan fan.jsonl\n  edgefn state export fan | edgefn state import fan-2 - --replace",
		Args:              wants("FUNCTION", "[FILE]"),
		ValidArgsFunction: a.thenFiles(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, what := a.in, "stdin"
			if len(args) > 1 && args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return &usageError{text: fmt.Sprintf("read state: %v", err), err: err}
				}
				defer func() { _ = f.Close() }()
				in, what = f, args[1]
			}
			c, err := a.dial()
			if err != nil {
				return err
			}
			p := a.progress("importing " + filepath.Base(what))
			defer p.end()
			done, err := c.StateImport(cmd.Context(), args[0], in, replace)
			if err != nil {
				return err
			}
			p.end()
			if out.json() {
				return a.printJSON(done)
			}
			return a.printf("%s written, %s of values, %s deleted\n", count(done.Written, "key", "keys"), size(done.Bytes), count(done.Deleted, "key", "keys"))
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "delete the keys that the file does not have")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// thenFiles offers names for the first argument and files for the next.
func (a *app) thenFiles(first completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return a.offer(cmd, args, first), noFiles
		}
		if len(args) == 1 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, noFiles
	}
}
