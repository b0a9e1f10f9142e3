package lab

import (
	"context"
	"errors"
	"fmt"
)

// Stop lets Miami go dark: all its servers lose their power at once and the link is
// cut. Dallas and all it has stay. Only Down follows.
func (l *Lab) Stop(ctx context.Context) error {
	errs := []error{l.Cut(ctx), l.place.Home.kill(ctx)}
	for _, s := range l.place.Servers {
		if err := s.Process.kill(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}
