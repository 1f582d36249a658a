package runtimes

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/edgefn/edgefn/functions"
)

// Places in a sandbox.
const (
	// Mount is where the node's own files are: the shims that Write wrote, and
	// edgefn-init under bin.
	Mount = "/edgefn"
	// Init is edgefn-init, which also runs programs of the exec runtime.
	Init = Mount + "/bin/edgefn-init"
	// Ctl is edgefn-init under the name by which a program reaches its node.
	Ctl = Mount + "/bin/edgefn-ctl"
)

// Variables that a shim and an SDK read.
const (
	// EnvIsolation holds the function's isolation.
	EnvIsolation = "EDGEFN_ISOLATION"
	// EnvMemory holds the memory limit of an instance in bytes.
	EnvMemory = "EDGEFN_MEMORY"
)

// Command is how an instance is started, with functions.AppDir as its working
// directory. Argv[0] without a slash is looked up in PATH in the sandbox.
type Command struct {
	Argv []string
	Env  []string // KEY=VALUE, over those of the image and of the function
}

// Launch returns how an instance of f is started.
func Launch(f *functions.Function) (Command, error) {
	if len(f.Handler) == 0 {
		return Command{}, errors.New("function has no handler")
	}
	c := Command{Env: []string{
		EnvIsolation + "=" + string(f.Isolation),
		EnvMemory + "=" + strconv.FormatInt(f.Memory, 10),
	}}
	switch f.Runtime {
	case functions.Python:
		// -I and -S: nothing of the node's user and no site, which doubles the
		// time to start; main.py sets the path. -B: the root is read-only.
		c.Argv = []string{"python3", "-I", "-S", "-B", "-X", "utf8", Mount + "/python/main.py", f.Handler[0]}
	case functions.Node:
		// No worker threads for V8: 3 fewer threads per instance, no slower to
		// start. Flags of V8 itself would cost 10 ms; main.mjs sets them.
		c.Argv = []string{"node", "--v8-pool-size=0", Mount + "/node/main.mjs", f.Handler[0]}
	case functions.Go:
		c.Argv = []string{functions.GoProgram}
		if _, set := f.Env["GOMEMLIMIT"]; !set && f.Memory > 0 {
			// The collector works harder near the limit instead of dying at it.
			c.Env = append(c.Env, "GOMEMLIMIT="+strconv.FormatInt(f.Memory/10*9, 10))
		}
	case functions.Exec:
		c.Argv = append([]string{Init, "exec", "--"}, f.Handler...)
	default:
		return Command{}, fmt.Errorf("runtime %q is none of %v", f.Runtime, functions.Runtimes)
	}
	return c, nil
}
