package cross

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	maxToolOutput = 64 << 10 // bytes of a tool's output that are kept, the last ones
	toolPatience  = 2 * time.Second
)

// tool is a program of a language that a build runs.
type tool struct {
	dir  string   // working directory
	env  []string // over this process's own; NAME= unsets
	argv []string
}

// toolError is a tool that failed.
type toolError struct {
	argv   []string
	err    error
	output string
}

// Error is the tool's own output: it says what is wrong better than we could.
func (e *toolError) Error() string {
	s := fmt.Sprintf("%s: %v", strings.Join(e.argv[:min(4, len(e.argv))], " "), e.err)
	if e.output != "" {
		s += "\n" + e.output
	}
	return s
}

// Unwrap returns why it ended.
func (e *toolError) Unwrap() error { return e.err }

// run runs the tool to its end and returns what it wrote to standard output
// and standard error. When ctx is done, the tool and all that it started are
// killed.
func (t tool) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, t.argv[0], t.argv[1:]...)
	cmd.Dir = t.dir
	cmd.Env = os.Environ()
	for _, kv := range t.env {
		name, value, _ := strings.Cut(kv, "=")
		if value != "" {
			cmd.Env = append(cmd.Env, kv)
			continue
		}
		kept := cmd.Env[:0]
		for _, have := range cmd.Env {
			if !strings.HasPrefix(have, name+"=") {
				kept = append(kept, have)
			}
		}
		cmd.Env = kept
	}
	out := &tail{most: maxToolOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = toolPatience
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	if ctx.Err() != nil {
		return text, context.Cause(ctx)
	}
	if err != nil {
		var gone *exec.Error
		if errors.As(err, &gone) {
			err = gone.Err
		}
		return text, &toolError{argv: t.argv, err: err, output: text}
	}
	return text, nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	buf  bytes.Buffer
	most int
	cut  bool
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.buf.Write(b)
	if over := t.buf.Len() - t.most; over > 0 {
		t.buf.Next(over)
		t.cut = true
	}
	return len(b), nil
}

// String returns what was kept.
func (t *tail) String() string {
	if t.cut {
		return "...\n" + t.buf.String()
	}
	return t.buf.String()
}
