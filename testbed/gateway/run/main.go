// Command run boots a gateway to look around on: it prints how to reach it,
// and keeps it until it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/edgefn/edgefn/testbed/gateway"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	image, err := gateway.Build(ctx, log)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := gateway.Start(ctx, image, dir, log)
	if err != nil {
		return err
	}
	defer m.Stop()
	fmt.Fprintf(os.Stdout, "PATH=%s:$PATH ssh gateway\n", m.Bin())
	<-ctx.Done()
	return nil
}
