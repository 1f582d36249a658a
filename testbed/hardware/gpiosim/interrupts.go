package gpiosim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Interrupts are the kernel's interrupt threads. In them it numbers the edges
// of a line, one after the other, and makes one of two edges that come before
// the thread has run. On an emulated machine, whose processors stand still
// whenever the host has other things to do, that is not rare; so who makes edges
// waits in between.
type Interrupts struct {
	states []string // files that tell what each thread does
}

// FindInterrupts looks for the threads that there are now: one per line that
// somebody listens to.
func FindInterrupts() (Interrupts, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return Interrupts{}, err
	}
	var found Interrupts
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(comm), "irq/") { // else it has ended
			found.states = append(found.states, filepath.Join(filepath.Dir(name), "stat"))
		}
	}
	return found, nil
}

// Wait returns when every thread has done what it was woken for. One that does
// not get there within a second is an error.
func (i Interrupts) Wait() error {
	for end := time.Now().Add(time.Second); ; time.Sleep(100 * time.Microsecond) {
		if i.idle() {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("an interrupt thread of the kernel runs for a second: is the machine overloaded?")
		}
	}
}

func (i Interrupts) idle() bool {
	for _, file := range i.states {
		stat, err := os.ReadFile(file)
		if err == nil && running(stat) {
			return false
		}
	}
	return true
}

// running reads the state in a thread's stat file, proc_pid_stat(5): a letter
// behind the name, which is in parentheses and may hold some.
func running(stat []byte) bool {
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return bytes.HasPrefix(rest, []byte(" R"))
}
