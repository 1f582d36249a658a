// Command naive is a subscriber as it is often written, and loses messages when
// it is killed: the client library acknowledges each one when the callback
// returns, and the callback only hands it to a goroutine that writes to a
// buffered file. The checker must find that out.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func main() {
	addr := flag.String("broker", "", "host:port")
	topic := flag.String("topic", "", "what to subscribe to")
	path := flag.String("o", "", "file that messages are appended to")
	flag.Parse()
	if err := run(*addr, *topic, *path); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func run(addr, topic, path string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	messages := make(chan []byte, 1024)
	o := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("naive").SetCleanSession(false)
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { messages <- m.Payload() })
	o.SetOnConnectHandler(func(c mqtt.Client) { c.Subscribe(topic, 1, nil) })
	c := mqtt.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	w := bufio.NewWriter(f)
	for flush := time.Tick(time.Second); ; {
		select {
		case m := <-messages:
			if _, err := w.Write(append(m, '\n')); err != nil {
				return err
			}
		case <-flush:
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}
