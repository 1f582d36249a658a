package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/edgefn/edgefn/node/api"
)

func main() {
	os.Exit(mainCode(product{}))
}

// mainCode runs the command line of the process. The first signal ends what
// runs in good order, the second one ends the process at once.
func mainCode(t tools) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerm: isTerminal(os.Stdin), outTerm: isTerminal(os.Stdout), errTerm: isTerminal(os.Stderr),
		getenv: os.Getenv, now: time.Now, slow: time.Second,
		tools: t,
	}
	return a.run(ctx, os.Args[1:])
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// app is what the commands share: where they read and write, and what they
// know of their surroundings.
type app struct {
	in       io.Reader
	out, err io.Writer
	inTerm   bool // in is a terminal
	outTerm  bool // out is a terminal
	errTerm  bool // err is a terminal
	getenv   func(string) string
	now      func() time.Time
	slow     time.Duration // work that takes longer shows its progress
	tools    tools

	target string // --node
	client *api.Client
}

// run runs one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root() //nolint:contextcheck // commands get theirs from cobra
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if a.client != nil {
		a.client.Close()
	}
	return a.report(cmd, err)
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "edgefn",
		Short: "Functions for field gateways",
		Long: "edgefn runs functions on a gateway: an MQTT message starts one, its result goes out.\n" +
			"One binary is both the node that runs them and the command line that deploys them.",
		Example: "  edgefn node\n  edgefn init fan --runtime python\n  edgefn deploy fan",
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommands,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentFlags().StringVar(&a.target, "node", "", "node to talk to: its control socket, or ssh://[USER@]HOST[:PORT][/SOCKET] (default $EDGEFN_NODE or "+api.DefaultTarget+")")
	for _, c := range []*cobra.Command{
		a.backupCommand(),
		a.buildCommand(),
		a.completionCommand(),
		a.deadCommand(),
		a.deployCommand(),
		a.describeCommand(),
		a.doctorCommand(),
		a.functionsCommand(),
		a.initCommand(),
		a.invokeCommand(),
		a.logsCommand(),
		a.mqttCommand(),
		a.nodeCommand(),
		a.pauseCommand(),
		a.removeCommand(),
		a.resumeCommand(),
		a.restoreCommand(),
		a.rollbackCommand(),
		a.stateCommand(),
		a.devicesCommand(),
		a.statusCommand(),
		a.usageCommand(),
		a.versionCommand(),
	} {
		root.AddCommand(c)
	}
	finish(root)
	return root
}

// finish sets on every command of the tree what is the same for all, and marks
// the errors of their work, so that any other is one of usage.
func finish(c *cobra.Command) {
	c.DisableFlagsInUseLine = true
	c.Flags().SortFlags = false
	c.InitDefaultHelpFlag()
	if f := c.Flags().Lookup("help"); f != nil {
		f.Usage = "show this help"
	}
	work := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := work(cmd, args); err != nil {
			return &workError{err}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		finish(sub)
	}
}

// subcommands is the RunE of a command that only has subcommands.
func subcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		if cmd.HasParent() {
			return usagef(cmd, "%s needs a subcommand", cmd.CommandPath())
		}
		return cmd.Help()
	}
	err := usagef(cmd, "unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err.hint = "did you mean " + cmd.CommandPath() + " " + strings.Join(near, " or ") + "?"
	}
	return err
}

// dial returns the client of the node that the command line means.
func (a *app) dial() (*api.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	target := a.target
	if target == "" {
		target = a.getenv("EDGEFN_NODE")
	}
	if target == "" {
		target = api.DefaultTarget
	}
	var err error
	a.client, err = api.Dial(target)
	return a.client, err
}
