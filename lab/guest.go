package lab

import (
	"context"
	"errors"
	"os/exec"
)

func (l *Lab) startGuest(ctx context.Context, spec Spec, srv *server, o Options) error {
	return errors.New("guests: not yet")
}

func (l *Lab) guestCommand(ctx context.Context, s *server, argv ...string) *exec.Cmd {
	args := InDallas("ssh", "-F", l.SSHConfig(), s.Name, "--", quoteAll(argv))
	return exec.CommandContext(ctx, args[0], args[1:]...)
}
