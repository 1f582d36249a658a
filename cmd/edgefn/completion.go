package main

import (
	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print the completion script of a shell",
		Long:      "completion prints a script that makes a shell complete commands, flags, and the names of the\nfunctions and devices that the node has at that moment.",
		Example:   "  edgefn completion bash > /etc/bash_completion.d/edgefn\n  source <(edgefn completion zsh)\n  edgefn completion fish > ~/.config/fish/completions/edgefn.fish",
		Args:      cobra.MatchAll(wants("SHELL"), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "zsh":
				return written(root.GenZshCompletion(a.out))
			case "fish":
				return written(root.GenFishCompletion(a.out, true))
			default:
				return written(root.GenBashCompletionV2(a.out, true))
			}
		},
	}
}
