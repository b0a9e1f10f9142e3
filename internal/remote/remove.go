package remote

import (
	"bufio"
	"context"
	"fmt"
)

// Remove takes the agent off t, with the directories that held it. An agent that
// still runs there keeps running until its connection ends. Removing what is not
// there is no error.
func Remove(ctx context.Context, t Target, o Options) error {
	if err := remove(ctx, t, o); err != nil {
		return fmt.Errorf("remove agent from %s: %w", t.label(), err)
	}
	return nil
}

func remove(ctx context.Context, t Target, o Options) error {
	if err := t.validate(); err != nil {
		return err
	}
	m := newMarker()
	script, err := eraseScript(m, o.CacheDirs)
	if err != nil {
		return err
	}
	p, err := launch(ctx, t, o, command(m, script, !t.Plain))
	if err != nil {
		return err
	}
	defer p.stop(0)
	b := &bootstrap{target: t, options: o, proc: p, marker: m, out: bufio.NewReader(p.stdout)}
	word, rest, err := b.hear(ctx)
	if err != nil {
		return err
	}
	switch word {
	case sayGone:
		return nil
	case sayBad:
		return fmt.Errorf("something else is in %s", rest)
	}
	return refused(t, word, rest, p.stderr.String())
}
