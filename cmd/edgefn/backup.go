package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
)

// notInBackup is what both commands have to say of a backup.
const notInBackup = "In a backup are all functions with their versions, images and state, dead letters, and all events\n" +
	"and messages that wait. Not in it are the node's config, its certificates and password files, its\n" +
	"secrets, its logs, and what the broker inside the node keeps of its clients."

func (a *app) backupCommand() *cobra.Command {
	var (
		out      *format
		f        dataFlags
		noImages bool
	)
	cmd := &cobra.Command{
		Use:   "backup FILE|- [--data DIR [--config F]] [--no-images] [-o table|json]",
		Short: "Copy a node into a file",
		Long: "backup writes a running node's backup to FILE, or to stdout: a tar with a checksum of every part.\n" +
			"The node goes on serving meanwhile. With --data it is a node that does not run, whose data folder\n" +
			"is on this machine.\n\n" + notInBackup + "\n\nIf images cannot be read, they are named, all else is in the backup, and the exit code is 1.",
		Example: "  edgefn backup gate.tar\n" +
			"  edgefn backup gate.tar --node ssh://admin@gateway\n" +
			"  edgefn backup - --no-images | gzip >gate.tar.gz\n" +
			"  edgefn backup gate.tar --data /var/lib/edgefn",
		Args: wants("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" && out.json() {
				return usagef(cmd, "-o json has no place where the backup itself goes to stdout: name a file")
			}
			take, err := a.backupSource(cmd, &f, api.BackupOptions{NoImages: noImages})
			if err != nil {
				return err
			}
			info, err := a.backup(cmd.Context(), args[0], take)
			if err != nil {
				return err
			}
			if err := a.printBackup(args[0], &info, out.json()); err != nil {
				return err
			}
			if missing := info.Missing(); len(missing) > 0 && !noImages {
				return &api.Error{
					Message: fmt.Sprintf("the backup is complete but for %s:\n%s", count(len(missing), "image", "images"), indent(strings.Join(missing, "\n"))),
					Hint:    "after a restore these functions are to be deployed again; --no-images takes a backup without images",
				}
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&noImages, "no-images", false, "leave the images out: the functions are to be deployed again after a restore")
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// dataFlags name the data folder of a node that does not run.
type dataFlags struct{ data, config string }

func (f *dataFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", "", "data folder of a node that does not run, such as "+node.Defaults().DataDir)
	cmd.Flags().StringVar(&f.config, "config", "", "config file of that node, for its name, and its data folder where --data names none")
	// It cannot fail: the flag is there and has no completion yet.
	_ = cmd.RegisterFlagCompletionFunc("data", folders)
}

// offline reports whether a node is meant that does not run.
func (f *dataFlags) offline() bool { return f.data != "" || f.config != "" }

// read is the config of the node that is meant.
func (f *dataFlags) read(a *app, cmd *cobra.Command) (node.Config, error) {
	if a.target != "" {
		return node.Config{}, usagef(cmd, "--node means a node that runs, and --data and --config one that does not")
	}
	if f.data != "" {
		var err error
		if f.data, err = filepath.Abs(f.data); err != nil {
			return node.Config{}, fmt.Errorf("find data folder: %w", err)
		}
	}
	return a.nodeConfig(cmd, nodeFlags{config: f.config, data: f.data, logLevel: "warn"})
}

// backupSource is what writes the backup of the node that is meant.
func (a *app) backupSource(cmd *cobra.Command, f *dataFlags, o api.BackupOptions) (func(context.Context, io.Writer) error, error) {
	if f.offline() {
		cfg, err := f.read(a, cmd)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, w io.Writer) error { return a.tools.BackupData(ctx, cfg, o, w) }, nil
	}
	c, err := a.dial()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		err := c.Backup(ctx, o, w)
		return hintData(err, "edgefn backup FILE")
	}, nil
}

// hintData says what to do with a node that cannot be reached since it does not run.
func hintData(err error, command string) error {
	if !errors.Is(err, api.ErrUnreach) {
		return err
	}
	return &api.Error{Err: err, Message: err.Error(), Hint: fmt.Sprintf("if the node does not run, name its data folder: %s --data %s; else name its socket with --node", command, node.Defaults().DataDir)}
}

// backup writes what take gives to a file, or to stdout, and checks it on its
// way.
func (a *app) backup(ctx context.Context, name string, take func(context.Context, io.Writer) error) (info backup.Info, err error) {
	p := a.progress("backing up")
	defer p.end()
	if name == "-" {
		return checked(ctx, a.out, p, take)
	}
	err = writeWhole(name, func(w io.Writer) (err error) {
		info, err = checked(ctx, w, p, take)
		return err
	})
	return info, err
}

// checked has take write a backup to w, and checks what goes there.
func checked(ctx context.Context, w io.Writer, p *progress, take func(context.Context, io.Writer) error) (backup.Info, error) {
	pr, pw := io.Pipe()
	type outcome struct {
		info backup.Info
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		info, err := backup.Check(pr)
		_ = pr.CloseWithError(err) // never fails; what is wrong with the backup ends its writing
		done <- outcome{info, err}
	}()
	var n int64
	err := take(ctx, io.MultiWriter(&meter{w: w, count: func(k int64) {
		n += k
		p.step(size(n))
	}}, pw))
	_ = pw.CloseWithError(err) // never fails
	o := <-done
	if err == nil {
		err = o.err
	}
	return o.info, err
}

func (a *app) printBackup(name string, i *backup.Info, asJSON bool) error {
	if asJSON {
		return a.printJSON(i)
	}
	text := fmt.Sprintf("backup of node %s at %s: %s, a store of %s, images of %s",
		i.Node, i.Time.Local().Format("2006-01-02 15:04:05"), count(len(i.Functions), "function", "functions"), size(i.StoreBytes), size(i.ImageBytes))
	if name == "-" {
		a.message("%s", clean(text))
		return nil
	}
	return a.printf("%s\n", clean(text))
}
