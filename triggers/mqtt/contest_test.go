package mqtt

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestContest(t *testing.T) {
	b := Backoff{First: time.Second, Max: time.Minute, Stable: 20 * time.Second}
	said := &disconnectError{0x8e, "0x8e, session taken over"}
	type end struct {
		lasted time.Duration
		err    error
	}
	short := end{time.Second, fmt.Errorf("connection lost: %w", io.EOF)}
	for _, c := range []struct {
		name string
		ends []end
		want string // in the error; empty: no contest
	}{
		{"two are chance", []end{short, short}, ""},
		{"three are not", []end{short, short, short}, `another client seems to use the client id "c" at broker "plant", which ended 3 connections in a row within 20s`},
		{"resets too", []end{short, short, {time.Second, syscall.ECONNRESET}}, "connection reset"},
		{"a good one between", []end{short, short, {21 * time.Second, io.EOF}, short}, ""},
		{"the network went", []end{short, short, {time.Second, errors.New("pingresp not received")}, short}, ""},
		{"said once", []end{{time.Hour, fmt.Errorf("connection lost: %w", said)}}, `another client uses the client id "c" at broker "plant": each`},
		{"said, and then the other one waits longer", []end{{time.Second, said}, {time.Minute, io.EOF}}, `another client uses the client id "c"`},
		{"said, and then a long time none", []end{{time.Second, said}, {time.Hour, io.EOF}}, ""},
		{"the broker goes for another reason", []end{{time.Second, said}, {time.Minute, &disconnectError{0x8b, "0x8b, server shutting down"}}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := contest{backoff: b}
			for _, e := range c.ends {
				k.ended(e.lasted, e.err)
			}
			err := k.err("plant", "c")
			if (err != nil) != (c.want != "") || k.on() != (err != nil) {
				t.Fatalf("on %v, error %v", k.on(), err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--name")) {
				t.Errorf("error %q, want one with %q and what to do", err, c.want)
			}
			if k.over(); k.on() {
				t.Error("it is not over")
			}
		})
	}
}

// Two clients that back off alike share a client id: each takes it ever more
// seldom, though its connection then lasts longer than a stable one.
func TestContestWithOneLikeUs(t *testing.T) {
	b := Backoff{}.withDefaults()
	type side struct {
		contest
		failures int
		up       time.Duration // since when it is connected
	}
	sides := [2]*side{{contest: contest{backoff: b}}, {contest: contest{backoff: b}}}
	now, connects := time.Duration(0), 0
	for in, out := 0, 1; now < time.Hour; in, out = out, in {
		s := sides[in] // thrown out
		s.ended(now-s.up, io.EOF)
		s.failures = s.contest.failures(s.failures, now-s.up)
		now += b.wait(s.failures, 0.5)
		s.up = now
		connects++
	}
	// Doubling from 0.5 s to a minute, less the jitter: 80 at 45 s each, and the first few.
	if connects > 100 {
		t.Errorf("%d connections in an hour", connects)
	}
	if !sides[0].on() || !sides[1].on() {
		t.Error("it is not noticed")
	}
}
