package lvm

import "fmt"

const (
	// share is what part of the origin's size a snapshot may hold of changes.
	share = 10 // percent
	// least is below what part of it a snapshot would not last for a pass.
	least = 1 // percent
	// small is how much it gets of a small origin, and the least below which none
	// is worth taking.
	small    = 64 << 20
	smallest = 8 << 20
	// poolFull is from what use of its pool a thin snapshot is not taken, and
	// PoolCritical from what use one that is there must go: a full pool stops
	// the origin.
	poolFull     = 80.0
	PoolCritical = 92.0
)

// Decision says whether a volume can have a snapshot now.
type Decision struct {
	Volume
	Room    int64  // bytes for what changes at the origin; 0 for a thin snapshot
	Refused string // why none is to be taken; empty if one is
}

// Decide decides for each of the wanted volumes, named by UUID, in their order. All
// snapshots together take no more than half of what a group has free.
func Decide(all []Volume, wanted []string) []Decision {
	left := map[string]int64{}
	out := make([]Decision, 0, len(wanted))
	for _, id := range wanted {
		d := Decision{Refused: "its logical volume is not known to lvs"}
		for _, v := range all {
			if v.UUID != id {
				continue
			}
			d = Decision{Volume: v}
			if _, ok := left[v.Group]; !ok {
				left[v.Group] = v.GroupFree / 2
			}
			d.decide(all, left[v.Group])
			left[v.Group] -= d.Room
		}
		out = append(out, d)
	}
	return out
}

// decide fills in size or refusal; free is what the snapshot may take.
func (d *Decision) decide(all []Volume, free int64) {
	switch kind := d.attr(0); {
	case d.Pool != "":
		d.decideThin(all)
		return
	case kind == 's' || kind == 'S':
		d.Refused = "it lies on a snapshot already"
		return
	case kind == 'O':
		d.Refused = "a snapshot is being merged into its logical volume"
		return
	}
	want := max(d.Size/100*share, small)
	need := min(max(d.Size/100*least, smallest), d.Size)
	if size := min(want, d.Size+d.ExtentSize, free) / d.ExtentSize * d.ExtentSize; size >= need && size > 0 {
		d.Room = size
		return
	}
	d.Refused = fmt.Sprintf("volume group %s has %d MiB free: too little for a snapshot of %s", d.Group, d.GroupFree>>20, d.Name)
}

func (d *Decision) decideThin(all []Volume) {
	for _, p := range all {
		if p.Group != d.Group || p.Name != d.Pool {
			continue
		}
		if p.Data > poolFull || p.Metadata > poolFull {
			d.Refused = fmt.Sprintf("thin pool %s/%s is %.0f %% full, its metadata %.0f %%", p.Group, p.Name, p.Data, p.Metadata)
		}
		return
	}
	d.Refused = fmt.Sprintf("its thin pool %s/%s is not known to lvs", d.Group, d.Pool)
}

func (v *Volume) attr(i int) byte {
	if i < len(v.Attr) {
		return v.Attr[i]
	}
	return '-'
}

// Lost says why the snapshot s, as taken, shows its instant no more or must go;
// empty if it is well. all is the list as it is now.
func (s *Snapshot) Lost(all []Volume) string {
	var own *Volume
	for i := range all {
		if all[i].Group == s.Group && all[i].Name == s.Name {
			own = &all[i]
		}
	}
	switch {
	case own == nil:
		return "its LVM snapshot was removed by somebody"
	case own.attr(4) == 'I' || own.attr(4) == 'S':
		return fmt.Sprintf("its LVM snapshot of %d MiB filled up: too much changed while it was read", s.Room>>20)
	case own.Pool == "":
		return ""
	}
	for _, p := range all {
		if p.Group == own.Group && p.Name == own.Pool && max(p.Data, p.Metadata) >= PoolCritical {
			return fmt.Sprintf("thin pool %s/%s is nearly full, its snapshot had to go", p.Group, p.Name)
		}
	}
	return ""
}
