package adapt

import "github.com/leeward-dr/leeward/internal/replica"

// PartitionsOf says what lies where in a clone of a recovery point. Directories that stand
// for partitions are made where they are not there.
func PartitionsOf(img *replica.Image) ([]Partition, error) {
	var out []Partition
	for i := range img.Layout.Partitions {
		p := &img.Layout.Partitions[i]
		if p.Gone {
			continue
		}
		a := Partition{Kind: Kind(p.Kind), MountPoint: p.MountPoint, Type: p.Type, UUID: p.UUID, Label: p.Label,
			PartUUID: p.PartUUID, Offset: p.Offset, Size: p.Size}
		if p.Tree || p.Kind == replica.ESP {
			var err error
			if a.Tree, err = img.Tree(p); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}
