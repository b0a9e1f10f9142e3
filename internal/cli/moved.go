package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/switchover"
)

// replicated is the result of replicate.
type replicated struct {
	*protect.RunResult
	Moved []movedRun `json:"moved,omitempty"` // what is not replicated to the target now
}

// movedRun is what a pass does of a member that is not primary at the source.
type movedRun struct {
	Member  string     `json:"member"`
	Outcome dr.Outcome `json:"outcome"`
	Facts   []string   `json:"facts,omitempty"`
	Err     string     `json:"error,omitempty"`
}

// stays takes from a choice what is primary at the target, or on its way: it cannot be
// replicated to there.
func (c *call) stays(ctx context.Context, e *config.Estate, selected []dr.ServerName) (world *switchover.World, servers []dr.ServerName, moved []string, err error) {
	_, dir, err := readStore(ctx, e, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	world = switchover.NewWorld(e, dir, filepath.Join(dir, switchDir))
	state, err := world.State.Load()
	if err != nil {
		return nil, nil, nil, err
	}
	away := func(name string) bool {
		m := state.Member(name)
		return m.Primary != switchover.Source || m.Moving != ""
	}
	for _, s := range selected {
		if away(string(s)) {
			moved = append(moved, string(s))
		} else {
			servers = append(servers, s)
		}
	}
	c.databases = slices.DeleteFunc(slices.Clone(c.databases), func(name string) bool {
		if away(name) {
			moved = append(moved, name)
		}
		return away(name)
	})
	return world, servers, moved, nil
}

// keepUp brings the way home of moved members up to date, where it is open.
func keepUp(ctx context.Context, w *switchover.World, moved []string) (out []movedRun) {
	for _, name := range moved {
		r := movedRun{Member: name, Outcome: dr.Done}
		facts, err := w.KeepUp(ctx, name)
		if r.Facts = facts; err != nil {
			r.Outcome, r.Err = dr.NotDone, err.Error()
		}
		out = append(out, r)
	}
	return out
}

func renderMoved(w io.Writer, moved []movedRun) {
	for _, m := range moved {
		fmt.Fprintf(w, "\n%s: %s\n", m.Member, choose(m.Err == "", "not replicated to the target, where it is primary or about to be", "NOT DONE: "+clean(m.Err)))
		listed(w, m.Facts)
	}
}
