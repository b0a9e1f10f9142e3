// Leeward keeps a bootable, proven standby of a server estate at a second site.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/leeward-dr/leeward/internal/cli"
)

// version is set when a release is linked, see the Makefile.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := cli.Run(ctx, cli.Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version,
	}, os.Args[1:])
	os.Exit(code)
}
