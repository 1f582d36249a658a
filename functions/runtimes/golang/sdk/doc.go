// Package edgefn is the side of edgefn that a go function sees.
//
// A function is a program that hands its handler to Run:
//
//	package main
//
//	import (
//		"context"
//
//		edgefn "github.com/edgefn/edgefn-go"
//	)
//
//	type reading struct {
//		Celsius float64 `json:"celsius"`
//	}
//
//	func main() { edgefn.Run(handle) }
//
//	func handle(ctx context.Context, e edgefn.Event) (any, error) {
//		var r reading
//		if err := e.JSON(&r); err != nil {
//			return nil, err
//		}
//		if err := edgefn.Publish(ctx, "greenhouse/last", r); err != nil {
//			return nil, err
//		}
//		return map[string]bool{"fan": r.Celsius > 28}, nil
//	}
//
// What a handler returns goes to the function's output: []byte and string as
// they are, anything else as JSON; nil means that there is no output message.
// An error or a panic is a failure: the event is tried again, and nothing that
// the handler wrote, published, invoked or commanded takes place. Two errors say
// how it goes on: Reject, never again, and RetryAfter, no sooner than a time.
//
// The context ends at the function's timeout. It also carries the invocation:
// State, Publish, Invoke, Line, Sensor, Log and Info take it. They may be used by
// several goroutines until the handler returns. Standard output and standard error go to
// the function's log, as does Log.
//
// A handler is tested by calling it with the context of a Fake.
package edgefn

// Version is the SDK's own version.
const Version = "4"
