// Command climate publishes the greenhouse's temperature and humidity when the
// temperature has moved, and an alarm while the sensor does not work.
package main

import (
	"context"

	"github.com/edgefn/edgefn-go"
)

const (
	topic = "greenhouse/climate"
	alarm = "alarms/greenhouse"
)

func main() { edgefn.Run(handle) }

type climate struct {
	Temperature float64 `json:"temperature_C"`
	Humidity    float64 `json:"humidity_rH"`
}

func handle(ctx context.Context, e edgefn.Event) (any, error) {
	switch e.Type {
	case "edgefn.sensor.fault":
		var fault struct {
			Error string `json:"error"`
		}
		if err := e.JSON(&fault); err != nil {
			return nil, err
		}
		return nil, edgefn.Publish(ctx, alarm, fault.Error, edgefn.Retain())
	case "edgefn.sensor.recovered": // with the first reading
		if err := edgefn.Publish(ctx, alarm, nil, edgefn.Retain()); err != nil { // nothing retained: it is over
			return nil, err
		}
	}
	var c climate
	if err := e.JSON(&c); err != nil {
		return nil, err
	}
	return nil, edgefn.Publish(ctx, topic, c, edgefn.Retain())
}
