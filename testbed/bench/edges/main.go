// Command edges measures, on a machine with simulated lines, how long an edge
// takes: from the press of one line to the message that a function's result
// is, and from the press of another to a program that does nothing but read it.
// It prints both, in milliseconds, as JSON.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/warthog618/go-gpiocdev"
)

// patience bounds the wait for one edge.
const patience = 30 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "edges:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("n", 30, "pairs of edges")
	pause := flag.Duration("pause", 500*time.Millisecond, "before each edge, for the node to have a spare instance")
	ours := flag.Int("function", 5, "line that the function listens to")
	plain := flag.Int("reader", 6, "line that the bare reader reads")
	flag.Parse()
	results := make(chan time.Time, 16)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://127.0.0.1:1883").SetClientID("edges"))
	if t := client.Connect(); !t.WaitTimeout(patience) || t.Error() != nil {
		return fmt.Errorf("connect: %w", t.Error())
	}
	defer client.Disconnect(100)
	if t := client.Subscribe("bench/edge/out", 1, func(mqtt.Client, mqtt.Message) { results <- time.Now() }); !t.WaitTimeout(patience) || t.Error() != nil {
		return fmt.Errorf("subscribe: %w", t.Error())
	}
	function, _, err := simulated(*ours)
	if err != nil {
		return err
	}
	reader, chip, err := simulated(*plain)
	if err != nil {
		return err
	}
	edges := make(chan time.Time, 16)
	l, err := gpiocdev.RequestLine(chip, *plain, gpiocdev.WithBothEdges, gpiocdev.WithEventHandler(func(gpiocdev.LineEvent) { edges <- time.Now() }))
	if err != nil {
		return fmt.Errorf("read line %d: %w", *plain, err)
	}
	defer l.Close()
	var out struct {
		Function []float64 `json:"function"`
		Reader   []float64 `json:"reader"`
	}
	for i := range *rounds + 2 { // the first two warm up
		for _, m := range []struct {
			line string
			came chan time.Time
			to   *[]float64
		}{{function, results, &out.Function}, {reader, edges, &out.Reader}} {
			time.Sleep(*pause)
			took, err := press(m.line, i%2 == 0, m.came)
			if err != nil {
				return err
			}
			if i >= 2 {
				*m.to = append(*m.to, took.Seconds()*1e3)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// simulated finds a line of gpio-sim: what it is pulled to, and its chip.
func simulated(offset int) (pull, chip string, err error) {
	found, err := filepath.Glob(fmt.Sprintf("/sys/devices/platform/gpio-sim.*/gpiochip*/sim_gpio%d/pull", offset))
	if err != nil || len(found) != 1 {
		return "", "", fmt.Errorf("find the simulated line %d: %d there, %w", offset, len(found), err)
	}
	return found[0], filepath.Base(filepath.Dir(filepath.Dir(found[0]))), nil
}

// press makes an edge and waits for what comes of it.
func press(line string, up bool, came <-chan time.Time) (time.Duration, error) {
	level := "pull-down"
	if up {
		level = "pull-up"
	}
	begin := time.Now()
	if err := os.WriteFile(line, []byte(level), 0); err != nil {
		return 0, fmt.Errorf("press: %w", err)
	}
	select {
	case at := <-came:
		return at.Sub(begin), nil
	case <-time.After(patience):
		return 0, errors.New("no answer to an edge")
	}
}
