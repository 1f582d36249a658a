// Command instance counts the events that its process has handled.
package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	edgefn "github.com/edgefn/edgefn-go"
)

var (
	seen int
	late context.Context
)

func main() { edgefn.Run(handle) }

func handle(ctx context.Context, e edgefn.Event) (any, error) {
	seen++
	switch e.Type {
	case "raise":
		return nil, errors.New("it broke")
	case "reject":
		return nil, edgefn.Reject(errors.New("no zone of that name"))
	case "retry":
		return nil, edgefn.RetryAfter(errors.New("the valve is moving"), 30*time.Second)
	case "late":
		late = context.WithoutCancel(ctx)
		return nil, nil
	case "late-error":
		if err := edgefn.State(late).Put("late", nil); err != nil {
			return err.Error(), nil
		}
		return "not refused", nil
	}
	return strconv.Itoa(seen), nil
}
