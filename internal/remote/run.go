package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Ran is how a command at a host ended.
type Ran struct {
	Started bool // that it did not is certain; that it did, as far as is known
	Exited  bool // by itself, with Code
	Code    int
	Output  string // of both its outputs; the middle of a long one is left out
}

const (
	sayRun  = "RUN"  // the command is awaited
	sayExit = "EXIT" // code: it has ended
)

// obey reads a command from its input and runs it with no input. Its output comes
// between two marked lines.
const obey = `say ` + sayRun + `; c=$(cat); sh -c "$c" </dev/null 2>&1; r=$?; echo; say ` + sayExit + ` $r`

// Run gives line to a POSIX shell at t, as root unless t is Plain, and waits for its
// end or that of ctx. An error tells why it did not start, or what cut it.
func Run(ctx context.Context, t Target, o Options, line string) (Ran, error) {
	ran, err := run(ctx, t, o, line)
	if err != nil {
		err = fmt.Errorf("run a command on %s: %w", t.label(), err)
	}
	return ran, err
}

func run(ctx context.Context, t Target, o Options, line string) (ran Ran, err error) {
	if err := t.validate(); err != nil {
		return ran, err
	}
	m := newMarker()
	b, word, rest, err := ask(ctx, t, o, m, fmt.Sprintf(prelude, m, "none", "none", 0)+obey)
	if err != nil {
		return ran, err
	}
	p := b.proc
	defer p.stop(0)
	if word != sayRun {
		return ran, refused(t, word, rest, p.stderr.String())
	}
	// From here on it may have started, whatever we hear.
	ran.Started = true
	if _, err = io.WriteString(p.stdin, line); err == nil {
		err = p.stdin.Close()
	}
	if err != nil {
		return ran, b.explain(fmt.Errorf("send the command: %w", err))
	}
	stop := context.AfterFunc(ctx, func() { p.stop(0) }) // which ends the read
	defer stop()
	var out tail
	_, err = io.Copy(&out, b.out)
	if ctx.Err() != nil {
		return ran, ctx.Err()
	}
	if err != nil {
		return ran, b.explain(fmt.Errorf("read from ssh: %w", err))
	}
	text, code, ok := outcome(out.String(), m)
	if ran.Output = text; !ok {
		return ran, b.explain(errors.New("the connection ended before the command did"))
	}
	ran.Exited, ran.Code = true, code
	return ran, nil
}

// ask gives a script to the shell at t and hears its first word. The process is the
// caller's to stop, unless there is an error.
func ask(ctx context.Context, t Target, o Options, marker, script string) (b *bootstrap, word, rest string, err error) {
	p, err := launch(ctx, t, o, command(marker, script, !t.Plain))
	if err != nil {
		return nil, "", "", err
	}
	b = &bootstrap{target: t, options: o, proc: p, marker: marker, out: bufio.NewReader(p.stdout)}
	if word, rest, err = b.hear(ctx); err != nil {
		p.stop(0)
	}
	return b, word, rest, err
}

// outcome splits what came into the command's output and its exit code.
func outcome(said, marker string) (output string, code int, ok bool) {
	mark := "\n" + marker + " " + sayExit + " "
	i := strings.LastIndex(said, mark)
	if i < 0 {
		return strings.TrimSpace(said), 0, false
	}
	code, err := strconv.Atoi(strings.TrimSpace(said[i+len(mark):]))
	return strings.TrimSpace(said[:i]), code, err == nil
}
