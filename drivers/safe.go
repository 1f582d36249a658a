package drivers

import (
	"context"
	"errors"
	"log/slog"
)

// Safe takes every output of specs, puts it to its safe level and lets go of it:
// for a node that did not come to it. The error has all faults, each with its place in
// front; ErrBusy means that somebody has the line, perhaps the node.
func Safe(ctx context.Context, specs []Spec, driver Driver, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var faults []error
	for _, s := range specs {
		if s.Line == "" || s.Direction != Out {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(faults, err)...)
		}
		o, err := driver.Output(s, s.Safe == High)
		if err == nil {
			err = o.Close()
		}
		if err != nil {
			faults = append(faults, s.fault(err))
			continue
		}
		log.Info("line is safe", keyDevice, s.Name, "level", string(s.Safe))
	}
	return errors.Join(faults...)
}
