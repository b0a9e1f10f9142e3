package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

// makeExt makes an ext2, ext3 or ext4 filesystem with exactly the source's
// features. The defaults of this host's mke2fs.conf play no part: a feature the
// source's boot loader or fsck does not know would make the replica unbootable.
func makeExt(ctx context.Context, dev string, p *Partition) error {
	dir, err := os.MkdirTemp("", "leeward-mke2fs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	conf := filepath.Join(dir, "mke2fs.conf")
	if err := os.WriteFile(conf, []byte(extConfig(p)), 0o600); err != nil {
		return err
	}
	features, err := extFeatures(p)
	if err != nil {
		return err
	}
	prezeroed, err := extKnowsPrezeroed(ctx)
	if err != nil {
		return err
	}
	run := func(features []string) error {
		t := tool{name: "mke2fs", args: extArgs(dev, p, features, prezeroed), env: []string{"MKE2FS_CONFIG=" + conf}}
		_, err := t.run(ctx)
		return err
	}
	err = run(features)
	if err != nil && strings.Contains(err.Error(), "Invalid filesystem option set") {
		if features, err = extNearest(ctx, p, features, conf); err == nil {
			err = run(features)
		}
	}
	if err != nil {
		return err
	}
	return tuneExt(ctx, dev, p)
}

// extConfig is an mke2fs.conf that adds nothing of its own.
func extConfig(p *Partition) string {
	return fmt.Sprintf(`[defaults]
	base_features = ""
	default_mntopts = "%s"
	enable_periodic_fsck = 0
	hash_alg = %s
[fs_types]
	ext2 = {
		features = ""
	}
	ext3 = {
		features = ""
	}
	ext4 = {
		features = ""
	}
`, p.Params["default_mount_options"], orElse(p.Params["hash_alg"], "half_md4"))
}

// extFeatures lists p's features that mke2fs is asked for. States of a mounted
// filesystem are no features of a new one.
func extFeatures(p *Partition) ([]string, error) {
	var out []string
	for _, f := range p.Features {
		switch {
		case f == "needs_recovery" || f == "orphan_present":
		case f == "mmp":
			// It guards against a second host on shared storage, which a replica is not
			// on, and would hold up every mount of it.
			p.note("multiple mount protection (mmp) is left out")
		case strings.HasPrefix(f, "FEATURE_"), f == "journal_dev":
			return nil, dr.WithHint(fmt.Errorf("feature %s: %w", f, ErrUnsupported),
				"install a newer e2fsprogs at the target, or exclude this filesystem")
		default:
			out = append(out, f)
		}
	}
	return out, nil
}

func extArgs(dev string, p *Partition, features []string, prezeroed bool) []string {
	// The image is sparse and fresh: what is not written is zero.
	ext := []string{"nodiscard", "lazy_itable_init=1", "lazy_journal_init=1"}
	if prezeroed {
		ext = append(ext, "assume_storage_prezeroed=1")
	}
	args := []string{"-q", "-F", "-t", p.Type, "-U", p.UUID,
		"-O", strings.Join(append([]string{"none"}, features...), ",")}
	add := func(flag, value string) {
		if value != "" && value != "0" {
			args = append(args, flag, value)
		}
	}
	add("-L", p.Label)
	add("-b", strconv.FormatUint(uint64(p.BlockSize), 10))
	add("-I", strconv.FormatUint(uint64(p.InodeSize), 10))
	add("-N", strconv.FormatUint(p.Inodes, 10))
	add("-e", p.Params["errors"])
	if slices.Contains(features, "flex_bg") {
		add("-G", p.Params["flex_bg_size"])
	}
	if slices.Contains(features, "bigalloc") {
		add("-C", p.Params["cluster_size"])
	}
	if size := journalMiB(p); size > 0 && slices.Contains(features, "has_journal") {
		add("-J", "size="+strconv.FormatInt(size, 10))
	}
	for _, name := range []string{"hash_seed", "encoding", "quotatype"} {
		if v := p.Params[name]; v != "" {
			ext = append(ext, name+"="+v)
		}
	}
	args = append(args, "-m", "0", "-E", strings.Join(ext, ","))
	return append(args, dev)
}

// journalMiB is the source's journal in the unit of mke2fs, 0 if unknown.
func journalMiB(p *Partition) int64 {
	n, err := strconv.ParseInt(p.Params["journal_bytes"], 10, 64)
	if err != nil {
		return 0
	}
	return n / mebibyte
}

// extNearest finds out which features this host's mke2fs does not know. Those
// that change nothing a reader of the data sees are left out, with a note.
func extNearest(ctx context.Context, p *Partition, features []string, conf string) ([]string, error) {
	optional := []string{"orphan_file", "fast_commit", "stable_inodes"}
	probe, err := os.CreateTemp("", "leeward-mke2fs-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(probe.Name())
	if err := errors.Join(probe.Truncate(64*mebibyte), probe.Close()); err != nil {
		return nil, err
	}
	var keep []string
	for _, f := range features {
		t := tool{name: "mke2fs", env: []string{"MKE2FS_CONFIG=" + conf},
			args: []string{"-n", "-q", "-F", "-t", "ext4", "-O", "none,has_journal," + f, probe.Name()}}
		_, err := t.run(ctx)
		switch {
		case err == nil || !strings.Contains(err.Error(), "Invalid filesystem option set"):
			keep = append(keep, f)
		case slices.Contains(optional, f):
			p.note("feature " + f + " is left out: this host's mke2fs does not know it")
		default:
			return nil, dr.WithHint(fmt.Errorf("feature %s: %w by this host's mke2fs", f, ErrUnsupported),
				"install a newer e2fsprogs at the target")
		}
	}
	return keep, nil
}

// tuneExt sets what mke2fs takes only in rounded form or not at all.
func tuneExt(ctx context.Context, dev string, p *Partition) error {
	reserved, err := strconv.ParseUint(orElse(p.Params["reserved_blocks"], "0"), 10, 64)
	if err != nil {
		return fmt.Errorf("reserved_blocks %q: %w", p.Params["reserved_blocks"], err)
	}
	if reserved == 0 {
		return nil
	}
	_, err = tool{name: "tune2fs", args: []string{"-r", strconv.FormatUint(reserved, 10), dev}}.run(ctx)
	return err
}

// extKnowsPrezeroed reports whether mke2fs can be told that the device is zero
// (1.47). With older ones the guest's kernel zeroes the inode tables at its first
// boot.
func extKnowsPrezeroed(ctx context.Context) (bool, error) {
	out, err := tool{name: "mke2fs", args: []string{"-V"}}.run(ctx)
	if err != nil {
		return false, err
	}
	var major, minor int
	if _, err := fmt.Sscanf(out, "mke2fs %d.%d", &major, &minor); err != nil {
		return false, nil // an unknown kind of version: the slower way is always right
	}
	return major > 1 || major == 1 && minor >= 47, nil
}

func growExt(ctx context.Context, dev, _ string) error {
	// resize2fs wants to have seen a check; 1 means that it repaired something.
	if _, err := (tool{name: "e2fsck", args: []string{"-f", "-y", dev}}).run(ctx); err != nil && exitCode(err) != 1 {
		return err
	}
	_, err := tool{name: "resize2fs", args: []string{dev}}.run(ctx)
	return err
}

func (p *Partition) note(text string) {
	if !slices.Contains(p.Notes, text) {
		p.Notes = append(p.Notes, text)
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
