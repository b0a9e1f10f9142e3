package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// pointsDiff compares two points, of each server that has both.
func (c *call) pointsDiff(ctx context.Context, words []string) error {
	if len(words) < 2 {
		return dr.WithHint(usagef("points diff: want two recovery points"), "as in: leeward points diff 20170906T030000.000Z newest web1; leeward points lists them")
	}
	from, names := splitPoint(words[0], words[2:])
	to, names := splitPoint(words[1], names)
	e, selected, err := c.estate(names)
	if err == nil {
		err = c.needServers(selected)
	}
	if err != nil {
		return err
	}
	if err := ensureStore(ctx, e); err != nil {
		return err
	}
	res, err := protect.DiffPoints(ctx, protect.Options{Estate: e, Names: selected}, from, to)
	if res == nil {
		return err
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	end := c.done(outcomeCode(parts), res, func(w io.Writer) { renderDiff(w, res) })
	if err != nil {
		return err
	}
	return end
}

// splitPoint takes NAME/ID apart and adds the name to names.
func splitPoint(word string, names []string) (dr.PointID, []string) {
	name, id, named := strings.Cut(word, "/")
	if !named {
		return dr.PointID(word), names
	}
	return dr.PointID(id), append(names[:len(names):len(names)], name)
}

func renderDiff(w io.Writer, res *protect.PointsDiff) {
	for i, s := range res.Servers {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s  from %s to %s\n", s.Server, s.From, s.To)
		renderTrouble(w, s.Err, s.Hint)
		t := table{}
		for _, f := range s.Filesystems {
			if f.State != "" {
				t.row(clean(f.MountPoint), f.State)
				continue
			}
			t.row(clean(f.MountPoint), fmt.Sprintf("%s added (%s)", number(f.Added), size(f.AddedBytes)),
				fmt.Sprintf("%s removed (%s)", number(f.Removed), size(f.RemovedBytes)),
				fmt.Sprintf("%s changed (of %s)", number(f.Changed), size(f.ChangedBytes)),
				fmt.Sprintf("%s with other attributes only", number(f.Attributes)))
		}
		t.print(w, "    ")
		if len(s.Changes) == 0 {
			continue
		}
		fmt.Fprintln(w, "    the largest:")
		listed(w, changeLines(s.Changes))
		if s.More > 0 {
			fmt.Fprintf(w, "      and %s smaller ones, which are counted above only\n", number(int64(s.More)))
		}
	}
}

func changeLines(all []protect.FileChange) []string {
	t := table{right: map[int]bool{1: true}}
	for _, c := range all[:min(len(all), maxListed)] {
		what := size(c.Size())
		if c.Kind == tree.Changed && c.Before != c.After {
			what = size(c.Before) + " → " + size(c.After)
		}
		t.row(string(c.Kind), what, clean(c.Path)+choose(c.Dir, "/", ""))
	}
	return append(t.lines(), make([]string, len(all)-len(t.rows))...) // so that their number is told
}

// mountResult is the result of points mount and umount.
type mountResult struct {
	*replica.Shown
}

// pointsMount mounts a point for copying files out. The process stays in the mount
// namespace it was started in, so that the mounts outlive it and others see them.
func (c *call) pointsMount(ctx context.Context, words []string, f pointFlags) error {
	if len(words) != 2 {
		return dr.WithHint(usagef("points mount: want a recovery point and a directory"), "as in: leeward points mount 20170906T030000.000Z --server web1 /mnt/point")
	}
	id, names := splitPoint(words[0], nil)
	if f.server != "" {
		names = append(names, f.server)
	}
	e, s, err := c.store(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	p, err := pointToMount(e, s, id, names)
	if err != nil {
		return err
	}
	v, err := s.Show(ctx, p, words[1])
	if err != nil {
		return err
	}
	return c.done(exitDone, mountResult{v}, func(w io.Writer) {
		fmt.Fprintf(w, "%s of %s is on %s, to be read only; end it by: leeward points umount %s\n", v.Point, v.Server, clean(v.Dir), clean(v.Dir))
		for _, m := range v.Missing {
			fmt.Fprintf(w, "    not shown: %s\n", clean(m))
		}
	})
}

// pointToMount finds the one point meant.
func pointToMount(e *config.Estate, s *replica.Store, id dr.PointID, names []string) (*replica.Point, error) {
	for _, name := range names {
		if e.Server(dr.ServerName(name)) == nil {
			return nil, dr.WithHint(usagef("%s has no server %q", e.File, name), "a server's point is mounted, not a group's")
		}
	}
	var found []*replica.Point
	var have []string
	for _, srv := range e.Servers {
		if len(names) > 0 && string(srv.Name) != names[len(names)-1] {
			continue
		}
		r, err := s.Replica(srv.Name)
		if err != nil {
			return nil, err
		}
		points, damaged := r.Points()
		if p := protect.FindPoint(points, id); p != nil {
			found = append(found, p)
			have = append(have, string(srv.Name))
		} else if damaged != nil && strings.Contains(damaged.Error(), string(id)) {
			return nil, dr.WithHint(damaged, "choose another point; leeward points lists them")
		}
	}
	switch len(found) {
	case 0:
		return nil, dr.WithHint(fmt.Errorf("find recovery point %q: no server has it", id), "leeward points lists them")
	case 1:
		return found[0], nil
	}
	return nil, dr.WithHint(usagef("recovery point %q is of %s", id, strings.Join(have, ", ")), "say which with --server NAME")
}

// pointsUmount ends what points mount began.
func (c *call) pointsUmount(ctx context.Context, words []string) error {
	if len(words) != 1 {
		return dr.WithHint(usagef("points umount: want the directory"), "as in: leeward points umount /mnt/point")
	}
	_, s, err := c.store(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	v, err := s.Unshow(words[0])
	if err != nil {
		return err
	}
	return c.done(exitDone, mountResult{v}, func(w io.Writer) {
		fmt.Fprintf(w, "%s of %s is no longer on %s\n", v.Point, v.Server, clean(v.Dir))
	})
}
