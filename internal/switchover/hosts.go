package switchover

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Servers are the Hosts of an estate: its servers at the source, reached over ssh or by
// the user's commands.
type Servers struct {
	Estate *config.Estate
	Shell  runbook.Shell
}

// tokenFile is where a server at the source keeps its fencing token: beside the agent,
// which is all that Leeward ever writes there.
const tokenFile = "/var/cache/leeward/leeward-fence-token"

func (s *Servers) find(name string) (*config.Server, error) {
	v := s.Estate.Server(dr.ServerName(name))
	if v == nil {
		return nil, fmt.Errorf("server %s: the configuration has none of that name now", name)
	}
	return v, nil
}

// must runs a line and insists that it ends with 0.
func (s *Servers) must(ctx context.Context, host, line string) (string, error) {
	ran, err := s.Shell.Run(ctx, host, line)
	if err != nil {
		return ran.Output, err
	}
	if !ran.Exited || ran.Code != 0 {
		return ran.Output, fmt.Errorf("run %q: it ended with %d: %s", line, ran.Code, ran.Output)
	}
	return ran.Output, nil
}

// Quiesce implements Hosts.
func (s *Servers) Quiesce(ctx context.Context, name string, still bool) ([]string, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	q := v.Quiesce
	work := q.Work
	if !still {
		work = q.Undo
	}
	if work != nil {
		return s.work(ctx, work)
	}
	units := strings.Join(q.Stop, " ")
	verb := "stop"
	if !still {
		verb = "start"
	}
	if _, err := s.must(ctx, name, "systemctl "+verb+" "+units); err != nil {
		return nil, err
	}
	if still {
		// is-active ends with 0 if any of them is.
		if _, err := s.must(ctx, name, "! systemctl is-active --quiet "+units); err != nil {
			return nil, err
		}
	}
	return []string{"systemctl " + verb + " " + units}, nil
}

// work runs a command of the user's and believes its check.
func (s *Servers) work(ctx context.Context, w *config.Work) ([]string, error) {
	if _, err := s.must(ctx, w.Host, w.Command); err != nil {
		return nil, err
	}
	if w.Check == "" {
		return []string{"the command ended with 0"}, nil
	}
	res, err := runbook.Checked(ctx, s.Shell, workArgs(w))
	if err == nil && res.Outcome != dr.Done {
		err = fmt.Errorf("run %q: it ended with 0, and its check says that it is not done", w.Command)
	}
	return res.Facts, err
}

// Fence implements Hosts. Units are masked, so that a restart of the server does not
// start them again.
func (s *Servers) Fence(ctx context.Context, name string, on bool, token int64) ([]string, error) {
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if v.Fence == nil && (v.Quiesce == nil || len(v.Quiesce.Stop) == 0) {
		return nil, hinted("give it fence: {command: …, check: …}, or quiesce: {stop: [UNIT…]}", "fence %s: nothing says how", name)
	}
	if v.Fence != nil && !on {
		facts, err := s.lift(ctx, name, v.Fence)
		if err == nil && s.writeToken(ctx, name, token) == nil {
			facts = append(facts, fmt.Sprintf("token %d is in %s there", token, tokenFile))
		}
		return facts, err // a server that still starts gets its token with the next cutover
	}
	var facts []string
	if err := s.writeToken(ctx, name, token); err == nil {
		facts = append(facts, fmt.Sprintf("token %d is in %s there", token, tokenFile))
	} else if v.Fence == nil {
		return nil, err
	} else {
		facts = append(facts, "the token could not be left there: "+err.Error())
	}
	if v.Fence != nil {
		ran, err := s.Shell.Run(ctx, v.Fence.Host, v.Fence.Command)
		if err != nil {
			return facts, err
		}
		return append(facts, fmt.Sprintf("the fence ended with %d", ran.Code)), nil
	}
	line := "systemctl mask --now " + strings.Join(v.Quiesce.Stop, " ")
	if !on {
		line = "systemctl unmask " + strings.Join(v.Quiesce.Stop, " ")
	}
	if _, err := s.must(ctx, name, line); err != nil {
		return facts, err
	}
	return append(facts, line), nil
}

// lift undoes a fence of the user's, or sees that a person did.
func (s *Servers) lift(ctx context.Context, name string, w *config.Work) (facts []string, err error) {
	if w.Undo != "" {
		ran, err := s.Shell.Run(ctx, w.Host, w.Undo)
		if err != nil {
			return nil, err
		}
		facts = append(facts, fmt.Sprintf("%s: it ended with %d", w.Undo, ran.Code))
	}
	stands, more, err := s.Fenced(ctx, name)
	facts = append(facts, more...)
	if err == nil && stands != dr.NotDone {
		err = hinted("start "+name+" where it was stopped, then go on: leeward rollback resume", "lift the fence of %s: it stands still", name)
	}
	return facts, err
}

func (s *Servers) writeToken(ctx context.Context, name string, token int64) error {
	_, err := s.must(ctx, name, fmt.Sprintf("umask 077; mkdir -p %s && echo %d > %s.new && mv -f %s.new %s && sync %s",
		tokenFile[:strings.LastIndexByte(tokenFile, '/')], token, tokenFile, tokenFile, tokenFile, tokenFile))
	return err
}

// Fenced implements Hosts.
func (s *Servers) Fenced(ctx context.Context, name string) (dr.Outcome, []string, error) {
	v, err := s.find(name)
	if err != nil {
		return dr.Unknown, nil, err
	}
	if v.Fence != nil {
		res, err := runbook.Checked(ctx, s.Shell, workArgs(v.Fence))
		return res.Outcome, res.Facts, err
	}
	if v.Quiesce == nil || len(v.Quiesce.Stop) == 0 {
		return dr.NotDone, []string{"nothing says how to fence it"}, nil
	}
	ran, err := s.Shell.Run(ctx, name, "for u in "+strings.Join(v.Quiesce.Stop, " ")+
		`; do [ "$(systemctl is-enabled "$u" 2>/dev/null)" = masked ] || exit 1; ! systemctl is-active --quiet "$u" || exit 1; done`)
	switch {
	case err != nil:
		return dr.Unknown, nil, err
	case ran.Exited && ran.Code == 0:
		return dr.Done, []string{strings.Join(v.Quiesce.Stop, ", ") + " masked and not active"}, nil
	case ran.Exited && ran.Code == 1:
		return dr.NotDone, nil, nil
	}
	return dr.Unknown, nil, fmt.Errorf("look at the services of %s: it ended with %d: %s", name, ran.Code, ran.Output)
}
