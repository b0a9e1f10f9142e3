package replica

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

// makeBtrfs makes a btrfs of one device with the source's features on and all
// others off. Redundancy over several devices is the business of whatever the
// image lies on, so a RAID source becomes single data and doubled metadata.
func makeBtrfs(ctx context.Context, dev string, p *Partition) error {
	format, err := btrfsList(ctx, "-O")
	if err != nil {
		return err
	}
	runtime, err := btrfsList(ctx, "-R") // newer ones list all under -O and know no -R
	if err != nil {
		runtime = nil
	}
	args, err := btrfsArgs(p, format, runtime)
	if err != nil {
		return err
	}
	t := tool{name: "mkfs.btrfs", args: append(args, dev)}
	_, err = t.run(ctx)
	if err != nil && strings.Contains(err.Error(), "non-unique UUID") {
		// A device of this host holds a btrfs of that id: another replica or a clone.
		// To have them is our trade; older mkfs.btrfs can only be kept from looking.
		_, err = t.alone().run(ctx)
	}
	return err
}

// btrfsArgs builds the command line; format and runtime are the features that
// mkfs.btrfs knows under -O and -R.
func btrfsArgs(p *Partition, format, runtime []string) ([]string, error) {
	var o, r []string
	for _, f := range format {
		if slices.Contains(p.Features, f) && !btrfsUnwanted(f) {
			o = append(o, f)
		} else if f != "free-space-tree" || slices.Contains(format, "block-group-tree") {
			o = append(o, "^"+f)
		}
	}
	for _, f := range runtime {
		switch {
		case slices.Contains(format, f):
		case slices.Contains(p.Features, f):
			r = append(r, f)
		case f == "free-space-tree":
			r = append(r, "^"+f)
		}
	}
	for _, f := range p.Features {
		if btrfsDecides(f) && !slices.Contains(format, f) && !slices.Contains(runtime, f) {
			return nil, dr.WithHint(fmt.Errorf("feature %s: %w by this host's mkfs.btrfs", f, ErrUnsupported),
				"install newer btrfs-progs at the target")
		}
	}
	args := []string{"-q", "-f", "-K", "-U", p.UUID}
	if !slices.Contains(p.Features, "mixed-bg") {
		args = append(args, "-d", "single", "-m", "dup")
	}
	if n := param(p, "nodesize"); n > 0 {
		args = append(args, "-n", strconv.FormatUint(n, 10))
	}
	if p.BlockSize > 0 {
		args = append(args, "-s", strconv.FormatUint(uint64(p.BlockSize), 10))
	}
	if c := p.Params["csum_type"]; c != "" {
		args = append(args, "--csum", c)
	}
	if p.Label != "" {
		args = append(args, "-L", p.Label)
	}
	if len(o) > 0 {
		args = append(args, "-O", strings.Join(o, ","))
	}
	if len(r) > 0 {
		args = append(args, "-R", strings.Join(r, ","))
	}
	return args, nil
}

// btrfsUnwanted are features that only several devices or zoned ones need.
func btrfsUnwanted(f string) bool { return f == "raid56" || f == "raid1c34" || f == "zoned" }

// btrfsDecides reports whether a feature is decided when the filesystem is made.
// The others come by themselves with what is written.
func btrfsDecides(f string) bool {
	switch f {
	case "mixed-bg", "extref", "skinny-metadata", "no-holes", "free-space-tree", "block-group-tree",
		"raid-stripe-tree", "extent-tree-v2":
		return true
	}
	return false
}

// btrfsList asks mkfs.btrfs for the features it takes with the option flag.
func btrfsList(ctx context.Context, flag string) ([]string, error) {
	out, err := tool{name: "mkfs.btrfs", args: []string{flag, "list-all"}}.run(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), " ")
		if ok && strings.HasPrefix(strings.TrimSpace(rest), "- ") {
			names = append(names, name)
		}
	}
	return names, nil
}

func growBtrfs(ctx context.Context, _, dir string) error {
	_, err := tool{name: "btrfs", args: []string{"filesystem", "resize", "max", dir}}.run(ctx)
	return err
}
