package replica

import (
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

const resetHint = "if the source is right, remove disk.raw, layout.json and state from the replica's directory: " +
	"the next pass then copies the server whole, and its recovery points stay"

// difference is how a disk that is there must change. The partitions of layout
// begin with those of the old layout, in order.
type difference struct {
	layout *Layout
	added  []int // indices into layout.Partitions
	grown  []int
	dirty  bool // layout differs from the old one
	change Change
}

// compare decides how the disk have becomes one for the source that want was
// planned from. It refuses what would lose data.
func compare(have, want *Layout) (*difference, error) {
	d := &difference{layout: have.clone()}
	for _, w := range want.Partitions {
		if w.MountPoint == "" && w.Kind != Swap {
			continue
		}
		i := d.layout.match(&w)
		if i < 0 {
			d.add(w)
			continue
		}
		if err := d.keep(i, &w); err != nil {
			return nil, err
		}
	}
	for i := range have.Partitions {
		p := &d.layout.Partitions[i]
		if (p.MountPoint != "" || p.Kind == Swap) && !p.Gone && want.match(p) < 0 {
			p.Gone, d.dirty = true, true
			d.change.Gone = append(d.change.Gone, p.name())
		}
	}
	return d, d.layout.check()
}

// match returns the index of the partition that stands for what p does, -1 if
// there is none.
func (l *Layout) match(p *Partition) int {
	return slices.IndexFunc(l.Partitions, func(q Partition) bool {
		if p.Kind == Swap || q.Kind == Swap {
			return p.Kind == q.Kind && p.UUID == q.UUID
		}
		return p.MountPoint != "" && q.MountPoint == p.MountPoint
	})
}

// add puts a filesystem that is new at the source on the disk. The source's ESP
// takes the place of the one made for want of it.
func (d *difference) add(w Partition) {
	d.dirty = true
	d.change.Added = append(d.change.Added, w.name())
	d.layout.add(w)
	d.added = append(d.added, len(d.layout.Partitions)-1)
}

// keep checks that partition i still fits w, and lets it grow.
func (d *difference) keep(i int, w *Partition) error {
	p := &d.layout.Partitions[i]
	if !sameType(p.Type, w.Type) || !strings.EqualFold(p.UUID, w.UUID) {
		err := fmt.Errorf("filesystem %s: the source now has %s with UUID %s, the replica holds %s with UUID %s",
			w.name(), w.Type, w.UUID, p.Type, p.UUID)
		return dr.WithHint(err, resetHint)
	}
	if p.Gone {
		p.Gone, d.dirty = false, true
		d.change.Back = append(d.change.Back, p.name())
	}
	if p.Label != w.Label {
		d.change.Notes = append(d.change.Notes, fmt.Sprintf("%s: the label is %q at the source and %q here", p.name(), w.Label, p.Label))
	}
	if w.Size <= p.Size {
		return nil
	}
	d.dirty = true
	d.grown = append(d.grown, i)
	d.change.Grown = append(d.change.Grown, p.name())
	if p.Offset+p.Size != d.layout.end() {
		p.Offset = d.layout.end()
	}
	p.Size = w.Size
	d.layout.Size = d.layout.end() + mebibyte
	return nil
}
