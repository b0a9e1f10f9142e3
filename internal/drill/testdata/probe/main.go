// Command probe stands for leeward inside a drilled machine.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/leeward-dr/leeward/internal/drill"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "guest-report" {
		fmt.Fprintln(os.Stderr, "usage: probe guest-report PORT")
		os.Exit(2)
	}
	if err := drill.GuestReportPort(context.Background(), os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
