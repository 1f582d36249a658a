package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/api/apitest"
)

// ask sends a request as curl would. The answer's body is closed with the test.
func ask(t *testing.T, path, method, url, body string) *http.Response {
	t.Helper()
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://edgefn"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestProblems(t *testing.T) {
	path := apitest.Serve(t, backend(), api.Options{MaxImage: 100, MaxBody: 200})
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		method, url, body string
		status            int
		typ               string
		detail            string // part of it
	}{
		{"GET", "/", "", 404, "no-route", "no such resource"},
		{"GET", "/v2/status", "", 404, "no-route", "no such resource"},
		{"HEAD", "/v2/status", "", 404, "", ""},
		{"POST", "/v1/status", "", 405, "method", "not allowed"},
		{"PATCH", "/v1/functions/fan", "", 405, "method", "not allowed"},
		{"GET", "/v1/functions/fan/invoke", "", 405, "method", "not allowed"},
		{"GET", "/v1/functions/nope", "", 404, "not-found", `function "nope"`},
		{"GET", "/v1/functions/Fan", "", 400, "invalid", "lower-case"},
		{"GET", "/v1/functions/a%2Fb", "", 400, "invalid", "lower-case"},
		{"GET", "/v1/functions/" + long, "", 400, "invalid", "..."},
		{"DELETE", "/v1/functions/%2E%2E/state/k", "", 400, "invalid", "lower-case"},
		{"GET", "/v1/functions/fan/state/", "", 400, "invalid", "empty"},
		{"GET", "/v1/functions/fan/state/" + long, "", 400, "invalid", "at most 512"},
		{"GET", "/v1/functions/fan/state/%FF", "", 400, "invalid", "UTF-8"},
		{"GET", "/v1/functions/fan/state?limit=-1", "", 400, "invalid", "limit"},
		{"GET", "/v1/functions/fan/state?prefx=a", "", 400, "invalid", "known are: prefix, after, limit"},
		{"GET", "/v1/functions/fan/state?prefix=" + long, "", 400, "invalid", "prefix"},
		{"GET", "/v1/functions/fan/logs?since=yesterday", "", 400, "invalid", "RFC 3339"},
		{"GET", "/v1/functions/fan/logs?follow=maybe", "", 400, "invalid", "follow"},
		{"GET", "/v1/functions/fan/dead/%00", "", 400, "invalid", "printable"},
		{"GET", "/v1/functions/nope/logs", "", 404, "not-found", "nope"},
		{"POST", "/v1/functions/fan/rollback?to=" + long, "", 400, "invalid", "version"},
		{"POST", "/v1/functions/fan/pause?trigger=" + long, "", 400, "invalid", "trigger"},
		{"POST", "/v1/functions/fan/resume?triger=in", "", 400, "invalid", "known are: trigger"},
		{"POST", "/v1/functions/nope/pause", "", 404, "not-found", "nope"},
		{"POST", "/v1/functions?wait=soon", "", 400, "invalid", "wait"},
		{"POST", "/v1/functions", strings.Repeat("y", 101), 413, "too-large", "100 bytes"},
		{"POST", "/v1/functions/fan/invoke", "{", 400, "invalid", "event"},
		{"POST", "/v1/functions/fan/invoke", `{"dta":""}`, 400, "invalid", "dta"},
		{"POST", "/v1/functions/fan/invoke", `{} {}`, 400, "invalid", "behind"},
		{"POST", "/v1/functions/fan/invoke", `{"wait":-1}`, 400, "invalid", "negative"},
		{"POST", "/v1/functions/fan/invoke", `{"data":"` + strings.Repeat("A", 400) + `"}`, 413, "too-large", "200 bytes"},
		{"PUT", "/v1/functions/fan/state/k", strings.Repeat("v", 201), 413, "too-large", "200 bytes"},
	} {
		t.Run(c.method+" "+c.url[:min(len(c.url), 50)], func(t *testing.T) {
			resp := ask(t, path, c.method, c.url, c.body)
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, c.status, b)
			}
			if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type %q", got)
			}
			if resp.Header.Get(api.Header) != api.Version {
				t.Error("the answer does not say that it is a node's")
			}
			if c.status == 405 && resp.Header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if c.method == "HEAD" {
				return
			}
			var p api.Problem
			if err := json.Unmarshal(b, &p); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			if p.Type != "urn:edgefn:"+c.typ || p.Status != c.status || p.Title == "" || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("problem %+v", p)
			}
		})
	}
}

// An image of unknown length is cut at the limit too, and the value of a key
// at its own.
func TestBoundsOfStreams(t *testing.T) {
	c := dial(t, apitest.Serve(t, backend(), api.Options{MaxImage: 1 << 20}))
	_, err := c.Deploy(t.Context(), io.LimitReader(zeros{}, 1<<20), api.DeployOptions{}, nil)
	if err != nil {
		t.Errorf("an image at the limit: %v", err)
	}
	_, err = c.Deploy(t.Context(), io.LimitReader(zeros{}, 1<<20+1), api.DeployOptions{}, nil)
	if !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "1048576 bytes") {
		t.Errorf("an image over the limit: %v", err)
	}
	if err := c.StatePut(t.Context(), "fan", "k", make([]byte, functions.MaxValue)); err != nil {
		t.Errorf("a value at the limit: %v", err)
	}
	if err := c.StatePut(t.Context(), "fan", "k", make([]byte, functions.MaxValue+1)); !errors.Is(err, api.ErrRefused) {
		t.Errorf("a value over the limit: %v", err)
	}
}

func TestHead(t *testing.T) {
	path := apitest.Serve(t, backend(), api.Options{})
	for url, ctype := range map[string]string{
		"/v1/status":                         "application/json",
		"/v1/functions/fan/logs?follow=true": "application/jsonl",
		"/v1/functions/fan":                  "application/json",
	} {
		resp := ask(t, path, "HEAD", url, "")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != ctype {
			t.Errorf("HEAD %s: %s %s", url, resp.Status, resp.Header.Get("Content-Type"))
		}
	}
}

// A line of a stream goes out at once, not when a buffer is full.
func TestStreamsAreFlushed(t *testing.T) {
	next := make(chan struct{})
	b := backend()
	b.OnLogs = func(ctx context.Context, _ string, _ api.LogOptions, f func(api.LogLine) error) error {
		if err := f(api.LogLine{Text: "one"}); err != nil {
			return err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
		return f(api.LogLine{Text: "two"})
	}
	resp := ask(t, apitest.Serve(t, b, api.Options{}), "GET", "/v1/functions/fan/logs?follow=1", "")
	r := bufio.NewReader(resp.Body)
	for _, want := range []string{"one", "two"} {
		line, err := r.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Fatalf("%q %v", line, err)
		}
		if want == "one" {
			close(next)
		}
	}
}
