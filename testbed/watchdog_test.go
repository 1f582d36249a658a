package testbed

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// watchdog is what systemd is to a node that has to say that it lives.
type watchdog struct {
	limit time.Duration // between two times
	conn  *net.UnixConn
	wg    sync.WaitGroup

	mu      sync.Mutex
	times   int           // the node has said that it lives
	last    time.Time     // of them
	longest time.Duration // between two
}

func startWatchdog(path string, limit time.Duration) (*watchdog, error) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return nil, err
	}
	w := &watchdog{limit: limit, conn: c}
	w.wg.Go(w.listen)
	return w, nil
}

func (w *watchdog) listen() {
	buf := make([]byte, 4<<10)
	for {
		n, err := w.conn.Read(buf)
		if err != nil {
			return
		}
		w.mu.Lock()
		now := time.Now()
		switch text := string(buf[:n]); {
		case strings.Contains(text, "READY=1"):
			w.last = now // from here on systemd counts
		case strings.Contains(text, "WATCHDOG=1") && !w.last.IsZero():
			w.longest = max(w.longest, now.Sub(w.last))
			w.last = now
			w.times++
		}
		w.mu.Unlock()
	}
}

// env is what systemd tells a node of it.
func (w *watchdog) env() []string {
	return []string{
		"NOTIFY_SOCKET=" + w.conn.LocalAddr().String(),
		"WATCHDOG_USEC=" + strconv.FormatInt(w.limit.Microseconds(), 10),
		"WATCHDOG_PID=",
	}
}

// lived returns how often the node has said that it lives, and for how long at
// most it has not.
func (w *watchdog) lived() (times int, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.last.IsZero() {
		longest = max(w.longest, time.Since(w.last))
	}
	return w.times, longest
}

func (w *watchdog) stop() {
	_ = w.conn.Close()
	w.wg.Wait()
}

// watchdog LIMIT: the next node that is started has to say that it lives, as
// systemd would have it | watchdog lives COUNT: waits until it has said so that
// often from now on, never later than the limit allows
func cmdWatchdog(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	if args[0] != "lives" {
		limit, err := time.ParseDuration(args[0])
		ts.Check(err)
		m.watch, err = startWatchdog(filepath.Join(m.run, "notify"), limit)
		ts.Check(err)
		return
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	before, _ := m.watch.lived()
	wait(ts, "the node to say that it lives", func() bool {
		times, longest := m.watch.lived()
		if longest > m.watch.limit {
			ts.Fatalf("systemd would have ended the node, which did not say for %v that it lives:\n%s", longest, m.output("node"))
		}
		return times >= before+count
	})
}

// hold invocations|logs FUNCTION COUNT | hold connections COUNT: keeps that many
// requests or silent connections open at the node until the script ends
func cmdHold(ts *testscript.TestScript, _ bool, args []string) {
	m := machineOf(ts)
	var request, begun string // what is sent, and what the node says when it serves it
	switch args[0] {
	case "invocations":
		// Their bodies do not come.
		request = "POST /v1/functions/" + args[1] + "/invoke HTTP/1.1\r\nHost: edgefn\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
		begun = "HTTP/1.1 100 "
	case "logs":
		request = "GET /v1/functions/" + args[1] + "/logs?follow=true HTTP/1.1\r\nHost: edgefn\r\n\r\n"
		begun = "HTTP/1.1 200 "
	case "connections":
	default:
		ts.Fatalf("nothing holds %s", args[0])
	}
	count, err := strconv.Atoi(args[len(args)-1])
	ts.Check(err)
	for range count {
		c, err := net.Dial("unix", filepath.Join(m.run, "r", "edgefn.sock"))
		ts.Check(err)
		m.held = append(m.held, c)
		if request == "" {
			continue
		}
		_, err = fmt.Fprint(c, request)
		ts.Check(err)
		ts.Check(c.SetReadDeadline(time.Now().Add(patience)))
		line, err := bufio.NewReader(c).ReadString('\n')
		ts.Check(err)
		if !strings.HasPrefix(line, begun) {
			ts.Fatalf("the node does not serve it: %s", line)
		}
	}
}
