package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

// answerGrace is how much longer than --timeout the node may take to say that
// the time is over.
const answerGrace = 5 * time.Second

func (a *app) invokeCommand() *cobra.Command {
	var (
		out      *format
		data     string
		req      api.InvokeRequest
		showLogs bool
	)
	cmd := &cobra.Command{
		Use:   "invoke NAME [--data TEXT|@FILE|-] [flags]",
		Short: "Hand an event to a function and print its result",
		Long: "invoke hands an event to a function, waits, and prints the bytes of the result alone on\n" +
			"stdout. A function that fails prints its error on stderr, and the exit code is 3. A function\n" +
			"that is paused runs as well: that holds for its triggers only.",
		Example: "  edgefn invoke fan --data '{\"celsius\": 31}'\n" +
			"  edgefn invoke resize --data @photo.jpg > small.jpg\n" +
			"  edgefn invoke fan --id order-17 --data @order.json --logs",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Wait < 0 {
				return usagef(cmd, "--timeout %v is negative", req.Wait)
			}
			if cmd.Flags().Changed("data") {
				var err error
				if req.Data, err = a.data(cmd, data); err != nil {
					return err
				}
			}
			return a.invoke(cmd.Context(), args[0], req, out.json(), showLogs)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&data, "data", "d", "", "the event's data: text, @FILE, or - for stdin")
	f.StringVar(&req.Type, "type", "", "the event's type (default edgefn.invoke)")
	f.StringVar(&req.Subject, "subject", "", "the event's subject")
	f.StringVar(&req.ID, "id", "", "the event's id; the same id takes effect once")
	f.StringVar(&req.DataContentType, "content-type", "", "media type of the data, such as application/json")
	f.BoolVar(&showLogs, "logs", false, "print what the function logged on stderr")
	f.DurationVar(&req.Wait, "timeout", 0, "how long to wait (default the function's own bounds)")
	out = formatFlag(cmd, "bytes", "json")
	return cmd
}

func (a *app) invoke(ctx context.Context, name string, req api.InvokeRequest, asJSON, showLogs bool) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	if req.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Wait+answerGrace)
		defer cancel()
	}
	p := a.progress("waiting for " + name)
	defer p.end()
	in, err := c.Invoke(ctx, name, req)
	p.end()
	if err != nil {
		return err
	}
	if showLogs {
		for _, l := range in.Logs {
			a.message("%s", logText(l))
		}
	}
	if in.Repeat {
		a.message("the id %q is known: its event was settled before, nothing ran", req.ID)
	}
	switch {
	case asJSON:
		if err := a.printJSON(in); err != nil {
			return err
		}
	case in.Failure == nil:
		if err := a.print(in.Data); err != nil {
			return err
		}
		if a.outTerm && len(in.Data) > 0 && in.Data[len(in.Data)-1] != '\n' {
			_, _ = fmt.Fprintln(a.err) // so that the prompt has a line of its own
		}
	}
	if in.Failure != nil {
		return &functionError{name: name, failure: *in.Failure}
	}
	return nil
}
