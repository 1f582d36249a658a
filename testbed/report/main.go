// Command report reads the output of `go test -json` and prints a line per
// package, the output of every test that failed, what was skipped and why,
// and how many tests there were.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

// event is a line of `go test -json`, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	output := map[string]*strings.Builder{} // per package and test
	count := map[string]int{}
	var skipped []string
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if output[key] == nil {
				output[key] = &strings.Builder{}
			}
			output[key].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				count[e.Action]++
			}
			text := ""
			if output[key] != nil {
				text = output[key].String()
			}
			delete(output, key)
			switch {
			case e.Test == "" && e.Action != "skip":
				fmt.Printf("%-4s\t%s\t%.1fs\n", map[string]string{"pass": "ok", "fail": "FAIL"}[e.Action], e.Package, e.Elapsed)
				if e.Action == "fail" {
					fmt.Print(text)
				}
			case e.Test != "" && e.Action == "fail":
				fmt.Print(text)
			case e.Test != "" && e.Action == "skip":
				skipped = append(skipped, strings.TrimSpace(e.Package+" "+e.Test+": "+strings.Join(strings.Fields(text), " ")))
			}
		}
	}
	for key, text := range output { // a build that failed has no closing event of its own
		if strings.Contains(key, "[build failed]") || strings.Contains(text.String(), "build failed") {
			fmt.Print(text.String())
		}
	}
	sort.Strings(skipped)
	for _, s := range skipped {
		fmt.Println("skipped:", s)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", count["pass"], count["fail"], count["skip"])
}
