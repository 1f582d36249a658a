package execshim

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/edgefn/edgefn/functions/wire"
)

const (
	// maxTail is how much of what a program wrote to standard error is told with
	// its failure, in bytes.
	maxTail = 4 << 10
	// drainTimeout is how long output is read after the program has ended. What
	// it left running in its process group is killed then; only a process that
	// left the group can hold the output open.
	drainTimeout = 500 * time.Millisecond
)

// look finds the program and says what keeps it from being run, for its author.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil // PATH has the working directory in it, on purpose
	}
	if err == nil {
		path, err = filepath.Abs(path)
		if err != nil {
			return "", err
		}
		return path, checkInterpreter(name, path)
	}
	st, statErr := os.Stat(name)
	switch {
	case statErr == nil && st.IsDir():
		return "", fmt.Errorf("program %s of handler is a folder", name)
	case statErr == nil && !strings.Contains(name, "/"):
		return "", fmt.Errorf("program %s of handler is in no folder of PATH: write ./%s for the file beside edgefn.yaml", name, name)
	case statErr == nil && st.Mode()&0o111 == 0:
		return "", fmt.Errorf("program %s of handler is not executable: chmod +x %s, or name its interpreter, such as [sh, %s]", name, name, name)
	case errors.Is(statErr, fs.ErrNotExist) && strings.Contains(name, "/"):
		return "", fmt.Errorf("program %s of handler is not there", name)
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("program %s of handler is in no folder of PATH (%s)", name, os.Getenv("PATH"))
	}
	return "", fmt.Errorf("program %s of handler cannot be run: %w", name, err)
}

// checkInterpreter reads the first line of a script: a missing interpreter shows
// otherwise as "no such file", as if the script were missing.
func checkInterpreter(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // a program that may be run and not read is no script
	}
	defer f.Close() //nolint:errcheck // only read from
	line, _ := bufio.NewReaderSize(f, 256).ReadSlice('\n')
	rest, ok := strings.CutPrefix(string(line), "#!")
	if !ok {
		return nil
	}
	hint := ""
	if strings.HasSuffix(rest, "\r\n") {
		hint = " (its lines end as on Windows: convert them, for example with sed -i 's/\\r$//')"
	}
	interpreter, _, _ := strings.Cut(strings.TrimLeft(strings.TrimSuffix(rest, "\n"), " \t"), " ")
	if _, err := os.Stat(interpreter); err != nil {
		return fmt.Errorf("interpreter %q of program %s is not there%s", interpreter, name, hint)
	}
	return nil
}

// program is one run.
type program struct {
	path  string
	argv  []string
	env   []string
	data  []byte
	limit int64 // bytes of output
}

func (p *program) tooLong() *wire.Failure {
	return &wire.Failure{Kind: "result", Message: fmt.Sprintf("%s wrote more to its output than the %d bytes that a result may have", p.argv[0], p.limit)}
}

// run runs the program to its end. It returns what it wrote: its output, if it
// did not fail, and the end of standard error.
func (p *program) run() (output []byte, stderr string, fail *wire.Failure) {
	cmd := &exec.Cmd{Path: p.path, Args: p.argv, Env: p.env, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil
		}
		files = append(files, r, w)
		return r, w
	}
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	if len(files) != 6 {
		return nil, "", &wire.Failure{Kind: "raised", Message: "start " + p.argv[0] + ": no descriptors left for its pipes"}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	if err := cmd.Start(); err != nil {
		hint := ""
		if errors.Is(err, syscall.ENOEXEC) {
			hint = " (a script begins with a line such as #!/bin/sh; a binary is built for this node's architecture)"
		}
		return nil, "", &wire.Failure{Kind: "raised", Message: fmt.Sprintf("start %s: %v%s", p.argv[0], errors.Unwrap(err), hint)}
	}
	for _, f := range []*os.File{inR, outW, errW} {
		_ = f.Close() // the program's ends
	}
	killAll := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	done := make(chan struct{}, 3) // holds one per goroutine below
	go func() {
		// A program that does not read its input is no failure.
		_, _ = inW.Write(p.data)
		_ = inW.Close()
		done <- struct{}{}
	}()
	var out bytes.Buffer
	go func() {
		_, _ = io.CopyN(&out, outR, p.limit+1)
		if int64(out.Len()) > p.limit {
			killAll()
		}
		done <- struct{}{}
	}()
	var last tail
	go func() {
		_, _ = io.Copy(io.MultiWriter(os.Stderr, &last), errR)
		done <- struct{}{}
	}()
	err := cmd.Wait()
	killAll()
	over := time.Now().Add(drainTimeout)
	_ = inW.SetDeadline(time.Unix(1, 0))
	_ = outR.SetDeadline(over)
	_ = errR.SetDeadline(over)
	for range cap(done) {
		<-done
	}
	stderr = last.String()
	switch {
	case int64(out.Len()) > p.limit:
		return nil, stderr, p.tooLong()
	case err != nil:
		return nil, stderr, p.failed(err, cmd.ProcessState, stderr)
	case out.Len() == 0:
		return nil, stderr, nil
	}
	return out.Bytes(), stderr, nil
}

func (p *program) failed(err error, st *os.ProcessState, stderr string) *wire.Failure {
	how := err.Error()
	if ws, ok := st.Sys().(syscall.WaitStatus); ok {
		switch {
		case ws.Exited():
			how = fmt.Sprintf("exited with status %d", ws.ExitStatus())
		case ws.Signaled():
			how = fmt.Sprintf("was ended by signal %d (%v)", ws.Signal(), ws.Signal())
		}
	}
	message := p.argv[0] + " " + how
	if lines := strings.Split(strings.TrimSpace(stderr), "\n"); lines[len(lines)-1] != "" {
		message += ": " + lines[len(lines)-1]
	}
	return &wire.Failure{Kind: "raised", Message: message, Detail: stderr}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if len(t.b) > 2*maxTail {
		t.b = append(t.b[:0], t.b[len(t.b)-maxTail:]...)
	}
	return len(b), nil
}

// String returns the end as text.
func (t *tail) String() string {
	b := t.b
	if len(b) > maxTail {
		b = b[len(b)-maxTail:]
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
