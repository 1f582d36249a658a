package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/edgefn/edgefn/testbed/settled/powercut"
)

func main() {
	n := flag.Int("faults", 40, "how many faults")
	seed := flag.Uint64("seed", 0, "of the schedule; 0: a new one, which is printed")
	kinds := flag.String("kinds", "", "only these kinds of faults, separated by commas; \"list\" lists them")
	rate := flag.Float64("rate", 30, "events a second")
	limit := flag.Duration("limit", 3*time.Hour, "no fault after this time")
	freeze := flag.Duration("freeze", 20*time.Second, "how long a node is stopped at most")
	recovery := flag.Duration("recover", 2*time.Minute, "a node that acknowledges nothing for longer after a fault hangs")
	verbose := flag.Bool("v", false, "tell of each fault, and show the node's log when one goes wrong")
	out := flag.String("o", "", "also write JSON to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{faults: *n, seed: *seed, rate: *rate, recover: *recovery, settle: 2 * time.Minute, deadline: time.Now().Add(*limit)}
	if *kinds != "" {
		o.only = strings.Split(*kinds, ",")
	}
	if err := command(ctx, o, *freeze, *out, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "settled:", err)
		if errors.Is(err, context.Canceled) {
			os.Exit(130)
		}
		os.Exit(1)
	}
}

func command(ctx context.Context, o options, freeze time.Duration, out string, verbose bool) (err error) {
	if slices.Equal(o.only, []string{"list"}) {
		for _, k := range (&site{}).kinds(ctx) {
			fmt.Fprintln(os.Stdout, k.name)
		}
		return nil
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	fmt.Fprintf(os.Stderr, "seed %d\n", o.seed)
	if why := powercut.Why(); why != "" {
		fmt.Fprintln(os.Stderr, why)
	}
	sys, err := newSite(ctx, siteOptions{root: ".", freeze: freeze, disk: powercut.Why() == "", clock: wantsClock(o.only)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.close()) }()
	o.progress = progress(o.faults)
	if verbose {
		o.progress = func(done int, f *fault) {
			wrong := f.wrong()
			fmt.Fprintf(os.Stderr, "%d %s %s %s, %s in all: %s\n", done, clock(f.at), f.kind, f.detail, f.done.Sub(f.at).Round(time.Millisecond), wrong)
			if wrong != "" {
				fmt.Fprintln(os.Stderr, sys.explain())
			}
		}
	}
	r, err := run(ctx, sys, o)
	if r == nil {
		return err
	}
	r.print(os.Stdout)
	if out != "" {
		err = errors.Join(err, r.write(out))
	}
	if err == nil && r.Faults < o.faults {
		err = fmt.Errorf("%d of %d faults were done in the time that there was", r.Faults, o.faults)
	}
	if err == nil && r.faulty() {
		err = errFaulty
	}
	return err
}

// wantsClock reports whether some kind needs a node with a clock of its own,
// which takes minutes to build the first time.
func wantsClock(only []string) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(k string) bool { return strings.HasPrefix(k, "clock-") })
}

// progress tells people of each fault: on one line of a terminal, otherwise a
// line now and then, and whenever something is wrong.
func progress(total int) func(int, *fault) {
	begin := time.Now()
	terminal := term.IsTerminal(int(os.Stderr.Fd()))
	return func(done int, f *fault) {
		text := fmt.Sprintf("%d of %d faults, %s; %s %s", done, total, time.Since(begin).Round(time.Second), f.kind, f.detail)
		wrong := f.wrong()
		switch {
		case terminal:
			fmt.Fprintf(os.Stderr, "\r\033[K%s", text)
			if wrong != "" || done == total {
				fmt.Fprintf(os.Stderr, " %s\n", wrong)
			}
		case wrong != "" || done%10 == 0 || done == total:
			fmt.Fprintln(os.Stderr, text, wrong)
		}
	}
}
