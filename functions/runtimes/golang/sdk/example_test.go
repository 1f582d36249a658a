package edgefn_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	edgefn "github.com/edgefn/edgefn/functions/runtimes/golang/sdk"
)

// count counts the messages of a topic and warns at every third.
func count(ctx context.Context, e edgefn.Event) (any, error) {
	state := edgefn.State(ctx)
	seen := 0
	switch b, err := state.Get(e.Subject); {
	case err == nil:
		if seen, err = strconv.Atoi(string(b)); err != nil {
			return nil, err
		}
	case !errors.Is(err, edgefn.ErrNotFound):
		return nil, err
	}
	seen++
	if err := state.Put(e.Subject, []byte(strconv.Itoa(seen))); err != nil {
		return nil, err
	}
	if seen%3 == 0 {
		edgefn.Log(ctx).Warn("another three", "subject", e.Subject)
		return map[string]int{"seen": seen}, nil
	}
	return nil, nil // no output message
}

// A handler is an ordinary function: in a program it is handed to Run, and in a
// test it is called with the context of a Fake.
func Example() {
	// func main() { edgefn.Run(count) }

	node := edgefn.Fake{State: map[string][]byte{"door/front": []byte("1")}}
	ctx := node.Context(context.Background(), edgefn.Invocation{Function: "count"})
	for range 2 {
		result, err := count(ctx, edgefn.Event{Subject: "door/front"})
		fmt.Println(result, err)
	}
	fmt.Printf("%s\n", node.State["door/front"])
	fmt.Println(node.Logged)
	// Output:
	// <nil> <nil>
	// map[seen:3] <nil>
	// 3
	// [warning: another three subject=door/front]
}

func ExamplePublish() {
	var node edgefn.Fake
	ctx := node.Context(context.Background(), edgefn.Invocation{})
	err := edgefn.Publish(ctx, "greenhouse/fan", map[string]bool{"on": true}, edgefn.QoS(2), edgefn.Retain())
	fmt.Println(err)
	for _, m := range node.Published {
		fmt.Printf("%s %s qos=%d retain=%v\n", m.Topic, m.Data, m.QoS, m.Retain)
	}
	// Output:
	// <nil>
	// greenhouse/fan {"on":true} qos=2 retain=true
}

func ExampleLine() {
	node := edgefn.Fake{Sensors: map[string]map[string]float64{"greenhouse": {"temperature_C": 31.2}}}
	ctx := node.Context(context.Background(), edgefn.Invocation{})
	reading, err := edgefn.Sensor(ctx, "greenhouse").Read()
	if err != nil {
		fmt.Println(err)
	}
	if err := edgefn.Line(ctx, "fan").Set(reading["temperature_C"] > 28); err != nil {
		fmt.Println(err)
	}
	if err := edgefn.Line(ctx, "bell").Pulse(200 * time.Millisecond); err != nil {
		fmt.Println(err)
	}
	for _, c := range node.Commanded {
		fmt.Println(c.Line, c.Do, c.On, c.For)
	}
	// Output:
	// fan set true 0s
	// bell pulse false 200ms
}
