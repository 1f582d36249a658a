// Command clock tells the time.
package main

import (
	"os"
	"time"
)

func main() { _, _ = os.Stdout.WriteString(time.Now().UTC().Format(time.RFC3339Nano)) }
