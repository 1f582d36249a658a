package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/edgefn/edgefn/functions/runtimes/execshim"
)

func main() {
	if filepath.Base(os.Args[0]) == "edgefn-ctl" {
		os.Exit(execshim.Ctl(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "exec" {
		os.Exit(execshim.Run(os.Args[2:]))
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "edgefn-init:", err)
		os.Exit(1)
	}
}
