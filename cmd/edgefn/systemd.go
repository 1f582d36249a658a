package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/edgefn/edgefn/node/api"
)

// watchdogShares is how often a node tells that it lives within the time that
// systemd gives it: sd_watchdog_enabled(3) recommends two; a third makes up for
// one that came late.
const watchdogShares = 3

// notify tells systemd; elsewhere nobody listens and nothing happens.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "err", err)
	}
}

// startWatchdog tells systemd, if it wants to be told, that the node lives, each
// time that it has answered itself at its control socket: a process that does
// nothing more than be there is started again.
//
// That answer proves that the socket takes a new connection, that requests are
// read and answered, and that the node's state is not locked for good. It does
// not depend on callers: the request for it takes no slot, and a connection of
// the node's own is neither counted nor closed (see api.HTTPServer). Nor does it
// depend on the store, on containerd or on a broker, which starting the node
// again does not mend; edgefn status tells of those.
//
// It goes on until ctx is done or the function that it returns is called, which
// waits for its end.
func startWatchdog(ctx context.Context, log *slog.Logger, socket string) (stop func()) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog is not understood", "err", err)
	}
	if err != nil || limit == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, log, socket, limit/watchdogShares) })
	return func() { cancel(); wg.Wait() }
}

func watch(ctx context.Context, log *slog.Logger, socket string, every time.Duration) {
	c, err := api.Dial("unix://" + socket)
	if err != nil {
		log.Warn("systemd's watchdog is not told", "err", err)
		return
	}
	defer c.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	served := false // before that, systemd does not watch yet
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch err := answers(ctx, c, every); {
		case err == nil:
			served = true
			notify(log, daemon.SdNotifyWatchdog)
		case served && ctx.Err() == nil:
			log.Warn("node does not answer itself", "err", err)
		}
	}
}

// watchdogTries is how often a node that does not answer itself is asked again
// within one of the watchdog's shares. The kernel refuses a connection at once
// when others have filled the socket's queue, which is empty a moment later.
const watchdogTries = 20

// answers returns nil once the node has answered, or why it has not in time.
func answers(ctx context.Context, c *api.Client, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	again := time.NewTicker(within / watchdogTries)
	defer again.Stop()
	for {
		err := c.Health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err //nolint:wrapcheck // it says who did not answer
		case <-again.C:
		}
	}
}
