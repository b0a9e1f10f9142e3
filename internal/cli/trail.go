package cli

import (
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
)

// trails remember the steps of each server.
type trails struct {
	mu sync.Mutex // guards of
	of map[dr.ServerName][]protect.Mark
}

// mark adds a step that begins now, and returns all so far.
func (t *trails) mark(name dr.ServerName, step string) []protect.Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[dr.ServerName][]protect.Mark{}
	}
	t.of[name] = append(t.of[name], protect.Mark{Step: step, At: time.Now()})
	return append([]protect.Mark(nil), t.of[name]...)
}

// drillProgress tells of a drill's step as of a pass's.
func (t *trails) drillProgress(u drill.Update) protect.Progress {
	p := protect.Progress{Server: u.Server, Phase: u.Step, Trail: t.mark(u.Server, u.Step)}
	if u.Result != nil {
		p.Finished = true
		if u.Result.Outcome != dr.Done {
			p.Err = fmt.Errorf("%s", u.Result.Cause)
		}
	}
	return p
}

// busyIn counts the servers that have steps to be shown.
func busyIn(all []serverState) (n int) {
	for _, v := range all {
		if !v.Finished && len(v.Trail) > 0 {
			n++
		}
	}
	return n
}

// trailLines are the steps of a server that is at work, each with what it took, below its
// line: as a tree where there are lines enough, as one line where there is one, else none.
func trailLines(v serverState, now time.Time, width, room int, st style) (lines []string) {
	if v.Finished || len(v.Trail) == 0 || room < 1 {
		return nil
	}
	took := func(i int) string {
		if i+1 < len(v.Trail) {
			return span(v.Trail[i+1].At.Sub(v.Trail[i].At))
		}
		return span(now.Sub(v.Trail[i].At)) + " …"
	}
	if len(v.Trail) > room {
		text := ""
		for i, m := range v.Trail {
			if i > 0 {
				text += "  "
			}
			text += m.Step + " " + took(i)
		}
		// The last step is what is worth seeing.
		for over := []rune(text); len(over) > max(0, width-6); text = string(over) {
			over = over[len(over)-max(0, width-6):]
		}
		return []string{st.dim("    └ " + text)}
	}
	for i, m := range v.Trail {
		stem := "    ├ "
		if i == len(v.Trail)-1 {
			stem = "    └ "
		}
		line := cut(stem+fit(m.Step, phaseWidth)+" "+took(i), width)
		if i < len(v.Trail)-1 {
			line = st.dim(line)
		}
		lines = append(lines, line)
	}
	return lines
}
