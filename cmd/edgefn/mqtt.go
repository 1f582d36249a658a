package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/triggers/mqtt/broker/access"
)

func (a *app) mqttCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mqtt clients|passwd",
		Short:   "Look after the MQTT broker inside the node",
		Long:    "mqtt lists who is connected to the broker inside the node, and writes its password files.",
		Example: "  edgefn mqtt clients\n  edgefn mqtt passwd /etc/edgefn/mqtt-passwords pump",
		Args:    cobra.ArbitraryArgs,
		RunE:    subcommands,
	}
	cmd.AddCommand(a.mqttClientsCommand(), a.mqttPasswdCommand())
	return cmd
}

// clientsPage is how many clients are asked for at a time.
const clientsPage = 1000

func (a *app) mqttClientsCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:   "clients [-o table|json]",
		Short: "List who is connected",
		Long: "clients lists the clients that are connected to the broker inside the node: their user names,\n" +
			"empty for who has none, where they come from and which listener took them, how many\n" +
			"subscriptions they have and how many messages wait for them.",
		Example: "  edgefn mqtt clients\n  edgefn mqtt clients -o json | jq '.[] | select(.queued > 100) | .id'",
		Args:    wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			clients := []api.MQTTClient{}
			for after := ""; ; {
				page, err := c.MQTTClients(cmd.Context(), after, clientsPage)
				if err != nil {
					return err
				}
				clients = append(clients, page...)
				if len(page) < clientsPage || page[len(page)-1].ID == after {
					break
				}
				after = page[len(page)-1].ID
			}
			if out.json() {
				return a.printJSON(clients)
			}
			if len(clients) == 0 {
				a.message("no clients are connected")
				return nil
			}
			t := newTable("CLIENT", "USER", "LISTENER", "ADDRESS", "VERSION", "SINCE", "SUBSCRIPTIONS", "QUEUED")
			for _, i := range clients {
				t.row(cell(i.ID, 60), cell(i.User, 40), i.Listener, i.Address, i.Version, a.ago(i.Since), strconv.Itoa(i.Subscriptions), strconv.Itoa(i.Queued))
			}
			return t.printTo(a.out)
		},
	}
	out = formatFlag(cmd, "table", "json")
	return cmd
}

// maxPasswordFile bounds what is read of a password file, in bytes: what the
// broker takes.
const maxPasswordFile = 8 << 20

func (a *app) mqttPasswdCommand() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "passwd FILE USER [--delete]",
		Short: "Set a user's password in a password file",
		Long: "passwd writes a user's line in a file for mqtt.password_file in the node's config, in place of the\n" +
			"one that the user had, and makes the file if it is not there. It asks for the password at a\n" +
			"terminal, or else reads a line of stdin; it keeps its bcrypt hash. Lines of mosquitto_passwd stay\n" +
			"as they are and count. A running node reads the file again by itself. It needs no node.",
		Example: "  edgefn mqtt passwd /etc/edgefn/mqtt-passwords pump\n  edgefn mqtt passwd users pump < secret\n  edgefn mqtt passwd users pump --delete",
		Args:    wants("FILE", "USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, user := args[0], args[1]
			text, info, err := readPasswords(file)
			switch {
			case err != nil:
				return err
			case remove && info == nil:
				return fmt.Errorf("password file %s: %w", file, api.ErrNotFound)
			case remove:
				text, found, err := access.RemoveUser(file, text, user)
				if err == nil && !found {
					err = fmt.Errorf("user %q in password file %s: %w", user, file, api.ErrNotFound)
				}
				if err != nil {
					return err
				}
				return writePasswords(file, text, info)
			}
			password, err := a.password(cmd, user)
			if err != nil {
				return err
			}
			if text, err = access.SetPassword(file, text, user, password); err != nil {
				return err
			}
			return writePasswords(file, text, info)
		},
	}
	cmd.Flags().BoolVar(&remove, "delete", false, "take the user out instead")
	return cmd
}

// readPasswords reads a password file; info is nil when there is none.
func readPasswords(file string) (text []byte, info fs.FileInfo, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read password file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", file)
	}
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxPasswordFile+1))
	}
	if err == nil && len(text) > maxPasswordFile {
		err = fmt.Errorf("%s is over %s", file, size(maxPasswordFile))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read password file: %w", err)
	}
	return text, info, nil
}

// writePasswords replaces a password file in one step, with the owner and mode
// that it had.
func writePasswords(file string, text []byte, info fs.FileInfo) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // what a link points to is replaced, and not the link
	}
	return writeWhole(file, func(w io.Writer) error {
		if f, ok := w.(*os.File); ok && info != nil {
			if err := f.Chmod(info.Mode().Perm()); err != nil {
				return err
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
					return fmt.Errorf("keep the owner of %s: %w", file, err)
				}
			}
		}
		_, err := w.Write(text)
		return err
	})
}

// password asks twice at a terminal, or reads a line of stdin.
func (a *app) password(cmd *cobra.Command, user string) (string, error) {
	var password string
	if f, ok := a.in.(*os.File); ok && a.inTerm {
		ask := func(what string) (string, error) {
			_, _ = fmt.Fprint(a.err, what)
			p, err := term.ReadPassword(int(f.Fd()))
			_, _ = fmt.Fprintln(a.err)
			if err != nil {
				return "", fmt.Errorf("read password: %w", err)
			}
			return string(p), nil
		}
		first, err := ask(fmt.Sprintf("Password of %s: ", user))
		if err != nil {
			return "", err
		}
		again, err := ask("Once more: ")
		if err != nil {
			return "", err
		}
		if first != again {
			return "", errors.New("the two passwords differ; nothing is changed")
		}
		password = first
	} else {
		line, err := bufio.NewReader(io.LimitReader(a.in, maxPassword)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read password from stdin: %w", err)
		}
		password = strings.TrimRight(line, "\r\n")
	}
	if password == "" {
		return "", usagef(cmd, "the password is empty: give it at the terminal, or in a line of stdin")
	}
	return password, nil
}

// maxPassword bounds what is read of stdin for a password, in bytes; bcrypt
// takes fewer and says so.
const maxPassword = 4 << 10
