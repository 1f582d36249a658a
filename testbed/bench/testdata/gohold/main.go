// Command gohold returns the time, in nanoseconds since 1970, for data that
// begins with "now", and for data that begins with "hold" at the second try: at
// the first it does not return, and the other events of its topic wait. For
// others it does nothing.
package main

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"github.com/edgefn/edgefn-go"
)

func main() {
	edgefn.Run(func(ctx context.Context, e edgefn.Event) (any, error) {
		hold := bytes.HasPrefix(e.Data, []byte("hold"))
		if hold && edgefn.Info(ctx).Attempt == 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if !hold && !bytes.HasPrefix(e.Data, []byte("now")) {
			return nil, nil
		}
		return strconv.FormatInt(time.Now().UnixNano(), 10), nil
	})
}
