// Command child is the hidden subcommand of the agent alone, for tests: without the
// race detector, whose memory would count.
package main

import (
	"fmt"
	"log"
	"os"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/sandbox"
)

func main() {
	log.SetOutput(render.SurviveFatal(os.Stderr))
	if err := sandbox.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
