package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
)

// nodeFlags override the config file.
type nodeFlags struct {
	config, name, data, run, mqtt, containerd, maxEvent, logLevel string
}

func (a *app) nodeCommand() *cobra.Command {
	var f nodeFlags
	d := node.Defaults()
	cmd := &cobra.Command{
		Use:   "node [--config F] [flags]",
		Short: "Run a node",
		Long: "node runs this machine's node: it keeps functions in containerd, hears their triggers and\n" +
			"answers commands on its control socket. It prints one line when it is ready. SIGTERM or\n" +
			"an interrupt lets it finish what runs, for 10 seconds, and end; a second one ends it at once.\n" +
			"Several nodes run on one machine when --name, --data, --run and --mqtt differ, and each has\n" +
			"lines of its own.",
		Example: "  edgefn node\n" +
			"  edgefn node --config /etc/edgefn/config.yaml\n" +
			"  edgefn node --name b --data /var/lib/edgefn-b --run /run/edgefn-b --mqtt 127.0.0.1:1884",
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.target != "" {
				return usagef(cmd, "--node says which node a command talks to; edgefn node makes its socket in --run")
			}
			cfg, err := a.nodeConfig(cmd, f)
			if err != nil {
				return err
			}
			return a.runNode(cmd.Context(), cfg)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "config file")
	fl.StringVar(&f.name, "name", "", "name of the node (default the host's)")
	fl.StringVar(&f.data, "data", "", "folder of what must survive a restart (default "+d.DataDir+")")
	fl.StringVar(&f.run, "run", "", "folder of the control socket (default "+d.RunDir+")")
	fl.StringVar(&f.mqtt, "mqtt", "", "address of the broker inside the node, or off (default "+d.MQTT.Addr+")")
	fl.StringVar(&f.containerd, "containerd", "", "containerd's socket (default the system's if it runs, else one of the node's own)")
	fl.StringVar(&f.maxEvent, "max-event", "", "largest event with its attributes (default "+size(d.MaxEvent)+")")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// nodeConfig is the config file with the flags over it, validated.
func (a *app) nodeConfig(cmd *cobra.Command, f nodeFlags) (node.Config, error) {
	cfg := node.Defaults()
	if f.config != "" {
		var err error
		if cfg, err = node.LoadConfig(f.config); err != nil {
			return cfg, configError(err)
		}
	}
	for _, o := range []struct {
		flag, value string
		to          *string
	}{
		{"name", f.name, &cfg.Name},
		{"data", f.data, &cfg.DataDir},
		{"run", f.run, &cfg.RunDir},
		{"mqtt", f.mqtt, &cfg.MQTT.Addr},
		{"containerd", f.containerd, &cfg.Containerd},
	} {
		if cmd.Flags().Changed(o.flag) {
			*o.to = o.value
		}
	}
	if f.maxEvent != "" {
		n, err := humanize.ParseBytes(f.maxEvent)
		if err != nil || n > 1<<40 {
			return cfg, usagef(cmd, "--max-event %q is not a size such as 512Ki", f.maxEvent)
		}
		cfg.MaxEvent = int64(n)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return cfg, usagef(cmd, "--log-level %q is none of debug, info, warn, error", f.logLevel)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	cfg.Version = localVersion().Version
	if err := cfg.Validate(); err != nil {
		return cfg, configError(fmt.Errorf("node config:\n%w", err))
	}
	return cfg, nil
}

// runNode runs a node until ctx is done, and keeps systemd informed.
func (a *app) runNode(ctx context.Context, cfg node.Config) error {
	a.tuneMemory()
	cfg.Ready = func(line string) {
		// A node serves although nobody reads that it does.
		_ = a.printf("%s\n", line)
		notify(cfg.Logger, daemon.SdNotifyReady+"\nSTATUS="+line)
	}
	cfg.Busy = func(line string) {
		notify(cfg.Logger, daemon.SdNotifyWatchdog+"\nEXTEND_TIMEOUT_USEC="+busyTime+"\nSTATUS="+line)
	}
	stopped := context.AfterFunc(ctx, func() {
		notify(cfg.Logger, daemon.SdNotifyStopping+"\nSTATUS=what runs is finished, then the node ends")
	})
	defer stopped()
	defer startWatchdog(ctx, cfg.Logger, cfg.Socket())()
	err := a.tools.RunNode(ctx, cfg)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // that is how a node ends
	}
	if errors.Is(err, syscall.EADDRINUSE) && api.Hint(err) == "" {
		err = &api.Error{
			Err:     err,
			Message: err.Error(),
			Hint:    "another program, or another node, listens there: choose an address with --mqtt, or --mqtt off",
		}
	}
	return err
}

// busyTime is how long systemd waits on for a node that is busy before it serves,
// in microseconds: six times what is between two words of it.
const busyTime = "60000000"

// The collector runs early, for memory is scarcer than time on a gateway: with
// GOGC=20 and a limit, a node took 73 MB where it took 103 MB without.
const (
	gcPercent    = 30
	minMemory    = 96 << 20 // bytes
	memoryShares = 8        // of the machine's memory one is the node's
)

// tuneMemory sets how the collector works, unless the environment does.
func (a *app) tuneMemory() {
	if a.getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if a.getenv("GOMEMLIMIT") != "" {
		return
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		debug.SetMemoryLimit(memoryLimit(uint64(info.Totalram) * uint64(info.Unit))) //nolint:unconvert // its types differ by architecture
	}
}

// memoryLimit is the soft limit of the node's heap on a machine with total
// bytes of memory:
//
//	max(96 MiB, total / 8)
func memoryLimit(total uint64) int64 {
	return max(minMemory, int64(total/memoryShares))
}
