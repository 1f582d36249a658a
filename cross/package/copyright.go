package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// termsFile matches the names under which modules keep their terms.
var termsFile = regexp.MustCompile(`(?i)^(licen[sc]e|copying|notice)([.-].*)?$`)

// writeCopyright writes who owns what is in the program, and on what terms: the
// modules that are linked into it for the target of env, each with its files,
// texts that are the same once.
func writeCopyright(ctx context.Context, env []string, name string) error {
	list, err := output(ctx, env, "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/edgefn", "./functions/init")
	if err != nil {
		return err
	}
	lines := strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(list)), " ", "\x00"))
	slices.Sort(lines)
	lines = slices.Compact(lines)
	users := map[string][]string{} // modules by the text of their terms
	for _, l := range lines {
		part := strings.SplitN(l, "\x00", 3)
		terms, err := termsIn(part[2])
		if err != nil {
			return fmt.Errorf("module %s: %w", part[0], err)
		}
		users[terms] = append(users[terms], part[0]+" "+part[1])
	}
	root, err := output(ctx, env, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	terms, err := termsIn(strings.TrimSpace(string(root)))
	if err != nil {
		// Some distributions keep it elsewhere; it is the same as golang.org/x's.
		terms = ""
		for t, m := range users {
			if slices.ContainsFunc(m, func(s string) bool { return strings.HasPrefix(s, "golang.org/x/sys ") }) {
				terms = t
			}
		}
	}
	users[terms] = append(users[terms], "the Go standard library")
	texts := make([]string, 0, len(users))
	for t := range users {
		texts = append(texts, t)
	}
	slices.SortFunc(texts, func(a, b string) int { return strings.Compare(users[a][0], users[b][0]) })
	var b bytes.Buffer
	b.WriteString("edgefn is the work of the edgefn authors. Linked into it are the following\nmodules, on the terms that stand below each.\n")
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n\n", strings.Repeat("=", 78))
		for _, m := range users[t] {
			fmt.Fprintf(&b, "%s\n", m)
		}
		fmt.Fprintf(&b, "\n%s\n", t)
	}
	return os.WriteFile(name, b.Bytes(), 0o600)
}

// termsIn are the licence and notices in a module's folder. A module with none
// cannot be given away, and is an error.
func termsIn(dir string) (string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, f := range files {
		if !f.Type().IsRegular() || !termsFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return "", err
		}
		texts = append(texts, strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
	}
	if len(texts) == 0 {
		return "", fmt.Errorf("no licence in %s", dir)
	}
	return strings.Join(texts, "\n\n"), nil
}
