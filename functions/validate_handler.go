package functions

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	pythonHandler = regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*:[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*$`)
	nodeHandler   = regexp.MustCompile(`^[\pL\pN_@-][\pL\pN_@.-]*(/[\pL\pN_@-][\pL\pN_@.-]*)*:[\pL_$][\pL\pN_$]*(\.[\pL_$][\pL\pN_$]*)*$`)
	// A package path is handed to the go command: it is never an option, a
	// pattern or a version query, and stays in its module.
	goHandler = regexp.MustCompile(`^(\.|(\./)?[A-Za-z0-9_][A-Za-z0-9_.~-]*(/[A-Za-z0-9_][A-Za-z0-9_.~-]*)*)$`)
)

// handler checks the form that each runtime asks of a handler. Whether it is
// there shows when it is loaded.
func (c *check) handler(f *Function) {
	if len(f.Handler) == 0 {
		c.add("handler", handlerHint(f.Runtime), "is missing")
		return
	}
	c.count("handler", len(f.Handler))
	if f.Runtime != Exec && len(f.Handler) > 1 {
		c.add("handler", handlerHint(f.Runtime), "is a list of %d, one is expected", len(f.Handler))
		return
	}
	h, ok := f.Handler[0], true
	switch f.Runtime {
	case Python:
		ok = pythonHandler.MatchString(h)
	case Node:
		ok = nodeHandler.MatchString(h)
	case Go:
		ok = goHandler.MatchString(h) && !slices.Contains(strings.Split(h, "/"), "..")
	case Exec:
		ok = strings.TrimSpace(h) != ""
		for i, a := range f.Handler {
			c.text(fmt.Sprintf("handler[%d]", i), a)
		}
	}
	if !ok {
		c.add("handler", handlerHint(f.Runtime), "%q is no handler of the %s runtime", h, f.Runtime)
	}
}

func handlerHint(r Runtime) string {
	switch r {
	case Python, Node:
		return `write module:function, such as "main:handle"`
	case Go:
		return `name the package of the program, such as "." or "./cmd/fan"`
	case Exec:
		return `name the program and its arguments, such as ["./handle.sh", "--quiet"]`
	}
	return "see the runtime's documentation for its form"
}
