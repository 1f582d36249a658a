package main

import (
	"context"
	"errors"
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
// time that its control socket has answered: a process that does nothing more
// than be there is started again. It goes on until ctx is done or the function
// that it returns is called, which waits for its end.
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bound, cancel := context.WithTimeout(ctx, every)
		_, err := c.Status(bound)
		cancel()
		switch {
		case err == nil:
			notify(log, daemon.SdNotifyWatchdog)
		case errors.Is(err, api.ErrUnreach):
			// It does not serve yet, and systemd does not watch yet.
		case ctx.Err() == nil:
			log.Warn("node does not answer itself", "err", err)
		}
	}
}
