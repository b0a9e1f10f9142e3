package replica

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

// makeXFS makes an XFS filesystem with the source's features on and all others
// off, whatever this host's mkfs.xfs would choose.
func makeXFS(ctx context.Context, dev string, p *Partition) error {
	usage, err := tool{name: "mkfs.xfs"}.run(ctx)
	if err != nil && exitCode(err) < 0 { // without arguments it prints its usage and fails
		return err
	}
	args, err := xfsArgs(p, usage)
	if err != nil {
		return err
	}
	_, err = tool{name: "mkfs.xfs", args: append(args, dev)}.run(ctx)
	return err
}

// xfsFeature is one on/off feature of mkfs.xfs.
type xfsFeature struct {
	name     string
	flag     string // the option group it is given in
	optional bool   // nothing in the guest depends on it
}

func xfsFeatures() []xfsFeature {
	return []xfsFeature{
		{"finobt", "-m", true}, {"rmapbt", "-m", true}, {"reflink", "-m", false},
		{"bigtime", "-m", false}, {"inobtcount", "-m", true}, {"metadir", "-m", false}, {"autofsck", "-m", true},
		{"sparse", "-i", true}, {"nrext64", "-i", true}, {"exchange", "-i", true},
		{"parent", "-n", true},
	}
}

// xfsArgs builds the command line; usage is the help text of mkfs.xfs, which
// tells the features it knows.
func xfsArgs(p *Partition, usage string) ([]string, error) {
	groups := map[string][]string{"-m": {"uuid=" + p.UUID}, "-n": {}, "-i": {}}
	crc := slices.Contains(p.Features, "crc")
	groups["-m"] = append(groups["-m"], "crc="+bit(crc))
	for _, f := range xfsFeatures() {
		on := slices.Contains(p.Features, f.name)
		switch known := strings.Contains(usage, f.name+"=0|1"); {
		case known && (crc || f.name == "finobt"):
			groups[f.flag] = append(groups[f.flag], f.name+"="+bit(on))
		case !on:
		case f.optional:
			p.note("feature " + f.name + " is left out: this host's mkfs.xfs does not know it")
		default:
			return nil, dr.WithHint(fmt.Errorf("feature %s: %w by this host's mkfs.xfs", f.name, ErrUnsupported),
				"install a newer xfsprogs at the target")
		}
	}
	for _, f := range p.Features {
		if f == "realtime" {
			return nil, dr.WithHint(fmt.Errorf("realtime section: %w", ErrUnsupported), "exclude this filesystem")
		}
	}
	if !crc {
		groups["-n"] = append(groups["-n"], "ftype="+bit(slices.Contains(p.Features, "ftype")))
	}
	if slices.Contains(p.Features, "ascii-ci") {
		groups["-n"] = append(groups["-n"], "version=ci")
	}
	number := func(flag, key string, n uint64) {
		if n > 0 {
			groups[flag] = append(groups[flag], key+strconv.FormatUint(n, 10))
		}
	}
	number("-b", "size=", uint64(p.BlockSize))
	number("-i", "size=", uint64(p.InodeSize))
	number("-s", "size=", param(p, "sector_size"))
	number("-n", "size=", param(p, "directory_block_size"))
	// -K: the image is fresh, there is nothing to discard.
	args := []string{"-q", "-f", "-K"}
	for _, flag := range []string{"-m", "-b", "-i", "-n", "-s"} {
		if len(groups[flag]) > 0 {
			args = append(args, flag, strings.Join(groups[flag], ","))
		}
	}
	if p.Label != "" {
		args = append(args, "-L", p.Label)
	}
	return args, nil
}

// adaptXFS plans a version 4 filesystem, which newer kernels do not mount, as
// version 5 with nothing else new, if the source's kernel can mount that.
func adaptXFS(p *Partition, kernel string) {
	if slices.Contains(p.Features, "crc") {
		return
	}
	var major, minor int
	if _, err := fmt.Sscanf(kernel, "%d.%d", &major, &minor); err != nil {
		return
	}
	if major > 3 || major == 3 && minor >= 16 {
		p.Features = append(slices.Clone(p.Features), "crc")
		p.note("XFS version 4 is made as version 5")
	}
}

func growXFS(ctx context.Context, _, dir string) error {
	_, err := tool{name: "xfs_growfs", args: []string{"-d", dir}}.run(ctx)
	return err
}

func bit(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// param returns a number among p's parameters, 0 if it is missing or none.
func param(p *Partition, name string) uint64 {
	n, err := strconv.ParseUint(p.Params[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}
