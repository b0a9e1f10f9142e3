package mariadb

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// CheckReturn implements engine.PhysicalReturn: the target is to follow the source some
// day, from the source's own binlog.
func (p *standby) CheckReturn(ctx context.Context) (out []engine.Finding, err error) {
	block := func(when bool, object, text, remedy string) {
		if when {
			out = append(out, engine.Finding{Severity: engine.Blocker, Object: object, Text: text, Remedy: remedy})
		}
	}
	e := p.o.Target
	block(e.Run == nil || e.Data == "" || e.Start == nil || e.Stop == nil, "server", "it is not known how to run commands there, nor how it is started and stopped",
		"say it with server: {data: …, owner: mysql, host: …, start: […], stop: […]} for that end")
	ids := [2]string{}
	for i, o := range []engine.Options{p.o.Target.Options, p.o.Source.Options} {
		err := at(ctx, o, func(s *server) error {
			if ids[i], err = s.variable(ctx, "server_id"); err != nil || i == 0 {
				return err
			}
			for _, name := range []string{"log_bin", "log_slave_updates"} {
				v, err := s.variable(ctx, name)
				if err != nil {
					return err
				}
				block(v != "ON", name, "it is off at the standby: once it is primary, nothing could follow it", name+" in that server's configuration, then restart it")
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("check the way back: %w", err)
		}
	}
	block(ids[0] == ids[1], "server_id", "it is "+ids[0]+" at both ends", "give each server one of its own, in its configuration")
	return out, nil
}

// Fenced implements engine.PhysicalReturn.
func (p *standby) Fenced(ctx context.Context) (fenced bool, err error) {
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		v, err := s.variable(ctx, "read_only")
		fenced = v == "ON"
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a fence: %w", err)
	}
	return fenced, nil
}
