package main

import "io"

// Run is run.
func Run(args []string, stderr io.Writer) int { return run(args, stderr) }
