package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProgramIsKeptRunning: what ends by itself is started again and counted,
// what was told to end is not.
func TestProgramIsKeptRunning(t *testing.T) {
	dir := t.TempDir()
	p := &program{
		argv:    []string{"/bin/sh", "-c", "echo ready; exec sleep 60"},
		logPath: filepath.Join(dir, "log"),
		ready:   func(log string) bool { return strings.Contains(log, "ready") },
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	defer p.end(syscall.SIGKILL)
	if !poll(t.Context(), 10*time.Second, p.isReady) {
		t.Fatal("it is not ready")
	}
	first := p.pid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !poll(t.Context(), 10*time.Second, func() bool { return p.pid() != 0 && p.pid() != first }) {
		t.Fatal("it was not started again")
	}
	if n := p.endedBySelf(); n != 1 {
		t.Errorf("it ended by itself %d times, want 1", n)
	}
	p.end(syscall.SIGTERM)
	if p.pid() != 0 || p.endedBySelf() != 0 {
		t.Errorf("after its end process %d, ended by itself", p.pid())
	}
}

func TestKillAllFindsWhatNamesAFolder(t *testing.T) {
	dir := t.TempDir()
	p := &program{argv: []string{"/bin/sh", "-c", "sleep 60 & sleep 61; : " + dir + "/x"}, logPath: filepath.Join(dir, "log"), ready: func(string) bool { return false }}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	pid := p.pid()
	if !poll(t.Context(), 10*time.Second, func() bool { return len(below(processes(), pid)) == 2 }) {
		t.Fatalf("below %d: %v", pid, below(processes(), pid))
	}
	children := below(processes(), pid)
	p.letGo()
	if err := killAll(dir); err != nil {
		t.Fatal(err)
	}
	<-p.done
	for _, c := range children {
		if !poll(t.Context(), 5*time.Second, func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid))
			return err != nil || strings.Contains(string(b), ") Z ")
		}) {
			t.Errorf("%v still runs", c)
		}
	}
}

func TestGate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	g, err := newGate(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	echo := func() error {
		c, err := net.Dial("tcp", g.addr())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	if echo() == nil {
		t.Error("a shut gate lets through")
	}
	g.set(true)
	if err := echo(); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("tcp", g.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	g.set(false)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a gate that was shut leaves a connection open")
	}
}
