// Command hardware simulates, inside the testbed's gateway, what a gateway has
// wired to it, so that the kernel and everything above it see real devices.
// `hardware serve` runs it; every other command tells the running one to do
// something. `hardware help` lists them.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

const socket = "/run/hardware.sock"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hardware:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 0 || args[0] == "help":
		_, err := io.WriteString(out, usage)
		return err
	case args[0] == "serve":
		return serve()
	default:
		return tell(args, out)
	}
}

// answer is what comes back for a command, which is sent as a list of its
// words; both are JSON on a line.
type answer struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// tell sends a command to the running program.
func tell(args []string, out io.Writer) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("reach the running program (systemctl status hardware): %w", err)
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(args); err != nil {
		return err
	}
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	_, err = io.WriteString(out, a.Text)
	return err
}

// serve wires the board and obeys commands until the process ends; the kernel
// then takes the buses away, and keeps the GPIO chip.
func serve() error {
	b, err := wire()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() { <-signals; l.Close() }()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var args []string
			if err := json.NewDecoder(bufio.NewReader(c)).Decode(&args); err != nil {
				return
			}
			text, err := b.obey(args)
			a := answer{Text: text}
			if err != nil {
				a.Error = err.Error()
			}
			_ = json.NewEncoder(c).Encode(a)
		}()
	}
}
