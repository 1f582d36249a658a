// Command celsius converts a zone's temperature for those who think in Celsius.
package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/edgefn/edgefn-go"
)

func main() { edgefn.Run(handle) }

func handle(ctx context.Context, e edgefn.Event) (any, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(e.Text()), 64)
	if err != nil {
		return nil, fmt.Errorf("payload is no number: %w", err)
	}
	zone := strings.Split(e.Subject, "/")[1]
	return nil, edgefn.Publish(ctx, "greenhouse/"+zone+"/celsius", celsius(f))
}

// celsius rounds to a tenth: the sensor is no better than that.
func celsius(fahrenheit float64) string {
	return strconv.FormatFloat((fahrenheit-32)/1.8, 'f', 1, 64)
}
