// Command echo returns what it gets.
package main

import (
	"context"

	"github.com/edgefn/edgefn-go"
)

func main() {
	edgefn.Run(func(_ context.Context, e edgefn.Event) (any, error) { return e.Data, nil })
}
