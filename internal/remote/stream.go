package remote

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// sayTake: a command and its input are awaited.
const sayTake = "TAKE"

// hand reads the length of a command, then the command, and becomes it: what follows on
// its input is the command's.
const hand = `say ` + sayTake + `; read -r k; c=$(head -c "$k"); exec sh -c "$c"`

// Stream gives line to a POSIX shell at t, as root unless t is Plain, with stdin as its
// input and stdout as its output, and returns when it has ended. nil is no input. An
// error holds the end of what it wrote to standard error. When ctx ends, so does the
// connection, and the command with its next read or write.
func Stream(ctx context.Context, t Target, o Options, line string, stdin io.Reader, stdout io.Writer) error {
	if err := stream(ctx, t, o, line, stdin, stdout); err != nil {
		return fmt.Errorf("run a command on %s: %w", t.label(), err)
	}
	return nil
}

func stream(ctx context.Context, t Target, o Options, line string, stdin io.Reader, stdout io.Writer) error {
	if err := t.validate(); err != nil {
		return err
	}
	m := newMarker()
	b, word, rest, err := ask(ctx, t, o, m, fmt.Sprintf(prelude, m, "none", "none", 0)+hand)
	if err != nil {
		return err
	}
	p := b.proc
	defer p.stop(0)
	if word != sayTake {
		return refused(t, word, rest, p.stderr.String())
	}
	stop := context.AfterFunc(ctx, func() { p.stop(0) }) // which ends reads and writes
	defer stop()
	var feeding sync.WaitGroup
	feeding.Go(func() {
		// Where the command ends before its input, its exit code tells why.
		if _, err := fmt.Fprintf(p.stdin, "%d\n%s", len(line), line); err == nil && stdin != nil {
			_, _ = io.Copy(p.stdin, stdin)
		}
		p.stdin.Close()
	})
	_, err = io.Copy(stdout, b.out)
	if err != nil {
		p.stop(0)
	}
	for !p.exited(time.Second) && ctx.Err() == nil {
	}
	stopped := make(chan struct{})
	go func() { feeding.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Second): // its reader does not end: the caller's to close
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("copy its output: %w", err)
	case p.code() == 255:
		return broken(t, p.stderr.String(), 255, io.ErrUnexpectedEOF)
	case p.code() != 0:
		return fmt.Errorf("exit status %d: %s", p.code(), strings.TrimSpace(p.stderr.String()))
	}
	return nil
}
