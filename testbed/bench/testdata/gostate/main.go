// Command gostate keeps what it gets under its topic, and returns it where the
// topic does not end in "quiet".
package main

import (
	"context"
	"strings"

	"github.com/edgefn/edgefn-go"
)

func main() {
	edgefn.Run(func(ctx context.Context, e edgefn.Event) (any, error) {
		if err := edgefn.State(ctx).Put(e.Subject, e.Data); err != nil {
			return nil, err
		}
		if strings.HasSuffix(e.Subject, "quiet") {
			return nil, nil
		}
		return e.Data, nil
	})
}
