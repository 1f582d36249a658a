package main

import (
	"context"

	edgefn "github.com/edgefn/edgefn-go"
)

func main() {
	edgefn.Run(func(context.Context, edgefn.Event) (any, error) { return sensor("attic"), nil })
}
