package switchover

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/retry"
)

// commands are the user's own for a server's machine here; nil where QEMU runs it.
func (g *Guests) commands(name string) *config.Machine {
	if s := g.estate.Server(dr.ServerName(name)); s != nil {
		return s.Machine
	}
	return nil
}

// tell has a line run here, with what it may want to know in its environment. note is nil
// where it only looks or ends.
func (g *Guests) tell(ctx context.Context, name, line string, note *machineNote) (code int, output string, err error) {
	env := fmt.Sprintf("export LEEWARD_NAME=%s LEEWARD_DISK=%s LEEWARD_BRIDGE=%s\n", quote(name), quote(g.disk(name)), quote(g.estate.Target.Bridge))
	if note != nil {
		var macs []string
		for _, c := range note.Cards {
			macs = append(macs, c.MAC)
		}
		env += fmt.Sprintf("export LEEWARD_MEMORY=%d LEEWARD_FIRMWARE=%s LEEWARD_MACS=%s\n", note.Memory>>20, quote(string(note.Firmware)), quote(strings.Join(macs, " ")))
	}
	ran, err := g.shell.Run(ctx, "", env+line)
	if err == nil && !ran.Exited {
		err = errors.New("it was ended by a signal")
	}
	if err != nil {
		return 0, ran.Output, fmt.Errorf("run %q: %w", line, err)
	}
	return ran.Code, ran.Output, nil
}

func (g *Guests) disk(name string) string {
	return filepath.Join(g.lasting(name).Dir, imageDir, "disk.raw")
}

func (g *Guests) runs(ctx context.Context, name string, m *config.Machine) (bool, error) {
	code, output, err := g.tell(ctx, name, m.Check, nil)
	if err == nil && code != 0 && code != 1 {
		err = fmt.Errorf("look whether %s runs: %q ended with %d: %s", name, m.Check, code, output)
	}
	return code == 0 && err == nil, err
}

func (g *Guests) startBy(ctx context.Context, name string, m *config.Machine, note *machineNote) ([]string, error) {
	code, output, err := g.tell(ctx, name, m.Start, note)
	if err == nil && code != 0 {
		err = fmt.Errorf("start %s: %q ended with %d: %s", name, m.Start, code, output)
	}
	if err != nil {
		return nil, err
	}
	facts := []string{fmt.Sprintf("%s was run for recovery point %s, with its disk in %s", m.Start, note.Point, g.disk(name))}
	return facts, g.until(ctx, name, m, true)
}

func (g *Guests) haltBy(ctx context.Context, name string, m *config.Machine) ([]string, error) {
	code, output, err := g.tell(ctx, name, m.Stop, nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("shut %s down: %q ended with %d: %s", name, m.Stop, code, output)
	}
	if err != nil {
		return nil, err
	}
	return []string{m.Stop + " was run"}, g.until(ctx, name, m, false)
}

// until waits until the user's check says what it should.
func (g *Guests) until(ctx context.Context, name string, m *config.Machine, want bool) error {
	for begun := time.Now(); ; {
		is, err := g.runs(ctx, name, m)
		if err != nil || is == want {
			return err
		}
		if time.Since(begun) > stopGrace {
			return fmt.Errorf("wait for %s: after %s its check says still that it runs: %t", name, stopGrace, is)
		}
		if err := retry.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}
