package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node/api"
)

// errNotConfirmed is for a question that was not answered with yes.
var errNotConfirmed = errors.New("nothing was removed")

func (a *app) removeCommand() *cobra.Command {
	var yes, keepState bool
	cmd := &cobra.Command{
		Use:     "remove NAME [--yes] [--keep-state]",
		Aliases: []string{"rm"},
		Short:   "Remove a function",
		Long: "remove takes a function away, with its versions, state, dead letters, log and usage. On a terminal\n" +
			"it says what goes, and asks. Events that run end first; its session at the broker ends, so messages\n" +
			"that arrive later are not kept for it. With --keep-state its state stays, and the next function of\n" +
			"its name has it.",
		Example:           "  edgefn remove fan\n  edgefn remove fan --keep-state --yes",
		Args:              wants("NAME"),
		ValidArgsFunction: a.complete(functionNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			c, err := a.dial()
			if err != nil {
				return err
			}
			// A function whose store cannot be counted can still be removed.
			k, err := c.Kept(cmd.Context(), name)
			if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrInvalid) || errors.Is(err, api.ErrUnreach) {
				return err
			}
			goes := "what is kept of it cannot be counted"
			if err == nil {
				goes = keptText(k, keepState)
			}
			if !yes && a.inTerm && a.errTerm {
				if err := a.confirm(cmd.Context(), fmt.Sprintf("remove function %s with %s?", name, goes)); err != nil {
					return err
				}
			}
			p := a.progress("removing " + name)
			defer p.end()
			err = c.Remove(cmd.Context(), name, api.RemoveOptions{KeepState: keepState})
			p.end()
			if err != nil {
				return err
			}
			return a.printf("removed %s: %s\n", name, goes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&keepState, "keep-state", false, "keep its state for the next function of its name")
	return cmd
}

// keptText says what goes with a function.
func keptText(k api.Kept, keepState bool) string {
	parts := []string{count(k.Versions, "version", "versions"), count(k.Triggers, "trigger", "triggers")}
	state := fmt.Sprintf("%s of state (%s)", count(k.StateKeys, "key", "keys"), size(k.StateBytes))
	if !keepState {
		parts = append(parts, state)
	}
	parts = append(parts, count(k.DeadLetters, "dead letter", "dead letters"))
	if k.Retries > 0 {
		parts = append(parts, count(k.Retries, "event", "events")+" to be tried again")
	}
	if k.Outgoing > 0 {
		parts = append(parts, count(k.Outgoing, "message", "messages")+" to be sent")
	}
	parts = append(parts, size(k.LogBytes)+" of log", "the usage of "+humanize.Comma(k.Invocations)+" invocations")
	text := strings.Join(parts, ", ")
	if keepState {
		text += "; kept: " + state
	}
	return text
}

// confirm asks a question on the terminal. Anything but yes is an error.
func (a *app) confirm(ctx context.Context, question string) error {
	if _, err := fmt.Fprintf(a.err, "%s [y/N] ", question); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	answer := make(chan string, 1)
	go func() { // a read of a terminal does not end with ctx
		line, _ := bufio.NewReader(io.LimitReader(a.in, 100)).ReadString('\n') // what was not read is no yes
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		if line == "y" || line == "yes" {
			return nil
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return errNotConfirmed
}
