package broker_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/triggers/mqtt/broker"
)

// runChild is the test binary as a broker of its own, to be killed.
func runChild(dir string) {
	b, err := broker.New(broker.Config{Addr: "127.0.0.1:0", Dir: dir, Sink: newSink(nil)})
	if err == nil {
		err = b.Listen()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(b.Addr())
	fmt.Println(b.Run(context.Background()))
}

// child starts a broker in a process of its own. kill ends it with SIGKILL.
func child(t *testing.T, dir string) (addr string, kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "BROKER_TEST_CHILD="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "127.0.0.1:") {
		t.Fatalf("child says %q: %v", line, err)
	}
	return strings.TrimSpace(line), kill
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr, kill := child(t, dir)
	sub := dial(t, addr, options{id: "offline", keep: true})
	sub.subscribe("x/#", 1)
	sub.goodbye()

	acked := map[string]bool{}
	retained, next := "", 0
	for round := range 4 { // in two of them nothing but the queue makes anything durable
		pub := dial(t, addr, options{id: "pub"})
		byPID := map[uint16]string{}
		for n := 0; ; n++ {
			if n < 200 {
				name := numbered(next)
				pid := uint16(next%60000 + 1)
				next++
				byPID[pid] = name
				pub.publish(publish{topic: "x/last", payload: name, qos: 1, pid: pid, retain: round < 2})
			}
			if n < 40 {
				continue // a window of 40
			}
			p, ok := pub.next()
			if !ok {
				t.Fatal("connection ended")
			}
			name := byPID[binary.BigEndian.Uint16(p.body)]
			acked[name] = true
			if round < 2 {
				retained = max(retained, name)
			}
			if n == 150 {
				break // with messages on the way
			}
		}
		kill()
		pub.close()
		addr, kill = child(t, dir)
		late := dial(t, addr, options{id: "late"})
		late.subscribe("x/last", 0)
		if m := late.wantPublish(); m.payload < retained {
			t.Errorf("round %d: retained message is %s, %s was acknowledged", round, m.payload, retained)
		}
		late.goodbye()
	}
	if len(acked) < 400 {
		t.Fatalf("only %d messages acknowledged", len(acked))
	}
	sub, present, _ := connect(t, addr, options{id: "offline", keep: true})
	if !present {
		t.Fatal("session is gone")
	}
	for missing := len(acked); missing > 0; {
		m := sub.wantPublish()
		if acked[m.payload] {
			missing--
			acked[m.payload] = false
		}
		sub.ack(pPuback, m.pid)
	}
}
