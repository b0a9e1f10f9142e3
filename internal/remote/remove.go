package remote

import (
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
	b, word, rest, err := ask(ctx, t, o, m, script)
	if err != nil {
		return err
	}
	defer b.proc.stop(0)
	switch word {
	case sayGone:
		return nil
	case sayBad:
		return fmt.Errorf("something else is in %s", rest)
	}
	return refused(t, word, rest, b.proc.stderr.String())
}
