package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// changeRows deploys a function with 2 MB of dependencies, changes a line of it
// and deploys it again: the second one against the first.
func changeRows(where, dir string, edgefn func(args ...string) ([]byte, error)) ([]row, error) {
	vendored := make([]byte, 2<<20)
	if _, err := rand.Read(vendored); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "vendor"), 0o755); err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		"edgefn.yaml": []byte("name: change\nruntime: python\nhandler: main:handle\n"),
		"vendor/data": vendored,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	deploy := func(answer string) (seconds, kilobytes float64, err error) {
		text := fmt.Sprintf("def handle(event, ctx):\n    return %q\n", answer)
		if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(text), 0o644); err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		out, err := edgefn("deploy", dir, "-o", "json")
		if err != nil {
			return 0, 0, err
		}
		seconds = time.Since(begin).Seconds()
		var d struct {
			Sent int64 `json:"sent_bytes"`
		}
		err = json.Unmarshal(out, &d)
		return seconds, float64(d.Sent) / 1000, err
	}
	first, all, err := deploy("one")
	if err != nil {
		return nil, err
	}
	var seconds, sent []float64
	for _, answer := range []string{"two", "three", "four"} {
		s, kb, err := deploy(answer)
		if err != nil {
			return nil, err
		}
		seconds, sent = append(seconds, s), append(sent, kb)
	}
	if _, err := edgefn("remove", "change"); err != nil {
		return nil, err
	}
	return []row{
		pair("deploy of a one-line change, p50, "+where, "s", "first deploy of the same function", quantile(seconds, .5), first),
		pair("bytes sent by a deploy of a one-line change, "+where, "kB", "first deploy of the same function", quantile(sent, .5), all),
	}, nil
}
