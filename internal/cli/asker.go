package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// asker asks the person at the terminal.
type asker struct {
	c    *call
	live *live
	who  runbook.Actor
	yes  bool // --yes was given: that is the approval

	mu sync.Mutex // one question at a time
}

// Ask implements runbook.Asker.
func (a *asker) Ask(ctx context.Context, q runbook.Question) (runbook.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ans := runbook.Answer{Outcome: dr.Done, Actor: a.who, Word: "--yes"}
	approval := q.Step.Action == runbook.ActionApproval
	if a.yes && approval {
		ans.At = time.Now()
		return ans, nil
	}
	if !isTerminal(a.c.In) {
		hint := "run the command in a terminal, or give --yes with it"
		if !approval {
			hint = fmt.Sprintf("do it, then: leeward %s resume --step %s --is done", q.Plan.Kind, q.Step.ID)
		}
		return runbook.Answer{}, dr.WithHint(fmt.Errorf("ask a person: there is no terminal"), hint)
	}
	a.live.pause()
	defer a.live.goOn()
	line, err := a.prompt(ctx, q, approval)
	ans.At, ans.Word = time.Now(), line
	switch strings.ToLower(line) {
	case "yes", "done":
		return ans, err
	}
	ans.Outcome = dr.NotDone
	return ans, err
}

func (a *asker) prompt(ctx context.Context, q runbook.Question, approval bool) (string, error) {
	w := a.c.Err
	fmt.Fprintf(w, "\n%s\n", q.Text)
	if approval {
		for _, n := range q.Plan.Notes {
			fmt.Fprintf(w, "  ! %s\n", clean(n))
		}
		fmt.Fprint(w, "Type yes to go on, anything else to stop: ")
	} else {
		fmt.Fprint(w, "Type done once it is, anything else if it cannot be: ")
	}
	lines := make(chan string, 1)
	go func() {
		// It ends with the line or with the process: a terminal cannot be read for a
		// while only.
		line, err := bufio.NewReader(a.c.In).ReadString('\n')
		if err != nil {
			line = ""
		}
		lines <- strings.TrimSpace(line)
	}()
	select {
	case line := <-lines:
		return line, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
