package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/node/api"
)

func TestMQTTClients(t *testing.T) {
	b := backend()
	s := open(t, b)
	b.Clients = nil
	s.run("mqtt", "clients").want(t, 0, "", "no clients are connected\n")
	s.run("mqtt", "clients", "-o", "json").want(t, 0, "[]\n", "")
	// More than one page.
	for i := range 2*clientsPage + 1 {
		b.Clients = append(b.Clients, api.MQTTClient{ID: fmt.Sprintf("c%05d", i), Since: now})
	}
	var got []api.MQTTClient
	if err := json.Unmarshal([]byte(s.run("mqtt", "clients", "-o", "json").out), &got); err != nil || len(got) != len(b.Clients) {
		t.Errorf("%d clients, %v", len(got), err)
	}
	s.run("mqtt").want(t, 2, "", "needs a subcommand")
}

func TestPasswd(t *testing.T) {
	s := open(t, backend())
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	s.runWith(t.Context(), "secret\n", "mqtt", "passwd", file, "pump").want(t, 0, "", "")
	first := read()
	if !strings.HasPrefix(first, "pump:$2a$10$") || strings.Contains(first, "secret") || strings.Count(first, "\n") != 1 {
		t.Errorf("file %q", first)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a new file: %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	s.runWith(t.Context(), "other", "mqtt", "passwd", file, "valve").want(t, 0, "", "")
	s.runWith(t.Context(), "new\r\nmore", "mqtt", "passwd", file, "pump").want(t, 0, "", "")
	if got := read(); got == first || !strings.HasPrefix(got, "pump:") || !strings.Contains(got, "\nvalve:$2a$") || strings.Count(got, "\n") != 2 {
		t.Errorf("file %q", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode became %v, %v", info.Mode(), err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("users", link); err != nil {
		t.Fatal(err)
	}
	s.run("mqtt", "passwd", link, "valve", "--delete").want(t, 0, "", "")
	if got := read(); strings.Contains(got, "valve") || !strings.HasPrefix(got, "pump:") {
		t.Errorf("file %q", got)
	}
	s.run("mqtt", "passwd", file, "valve", "--delete").want(t, 4, "", `user "valve" in password file `+file+": not found")
	s.run("mqtt", "passwd", file+"x", "valve", "--delete").want(t, 4, "", "not found")

	before := read()
	s.runWith(t.Context(), "\n", "mqtt", "passwd", file, "pump").want(t, 2, "", "the password is empty")
	s.runWith(t.Context(), "x", "mqtt", "passwd", file, "a:b").want(t, 1, "", "user name")
	s.runWith(t.Context(), strings.Repeat("x", 100), "mqtt", "passwd", file, "pump").want(t, 1, "", "72 bytes")
	s.runWith(t.Context(), "x", "mqtt", "passwd", dir, "pump").want(t, 1, "", "is not a file")
	s.run("mqtt", "passwd", file).want(t, 2, "", "USER")
	s.run("mqtt", "passwd", file, "pump", "secret").want(t, 2, "", "secret")
	if got := read(); got != before {
		t.Errorf("a refused change left %q", got)
	}
	if err := os.WriteFile(file, []byte("pump:plain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.runWith(t.Context(), "x", "mqtt", "passwd", file, "pump").want(t, 1, "", file+":1:")
	if got := read(); got != "pump:plain\n" {
		t.Errorf("a broken file became %q", got)
	}
}
