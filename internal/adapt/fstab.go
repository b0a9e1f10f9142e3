package adapt

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const (
	fstabFile     = "/etc/fstab"
	deviceTimeout = "x-systemd.device-timeout=5s"
	commentMark   = "# leeward: "
)

// fixFstab makes each line of fstab name something the machine has, or wait for
// nothing. One stale line would end a boot in emergency mode after 90 seconds.
func fixFstab(j *job) error {
	old, err := j.img.ReadFile(fstabFile)
	if err != nil {
		j.warn("fstab: %v: only the root filesystem will be mounted", err)
		return nil
	}
	var out strings.Builder
	for _, line := range strings.SplitAfter(string(old), "\n") {
		changed, what, why := j.fstabLine(line)
		out.WriteString(changed)
		if what != "" {
			j.did(fstabFile, what, why)
		}
	}
	_, err = j.img.WriteFile(fstabFile, []byte(out.String()), 0o644)
	return err
}

// fstabEntry is a line taken apart; field values are decoded.
type fstabEntry struct {
	spec, file, kind string
	options          []string
}

// fieldSpans returns where the fields of a line begin and end.
func fieldSpans(line string) [][2]int {
	var spans [][2]int
	for i := 0; i < len(line); {
		if strings.IndexByte(" \t\r\n", line[i]) >= 0 {
			i++
			continue
		}
		start := i
		for i < len(line) && strings.IndexByte(" \t\r\n", line[i]) < 0 {
			i++
		}
		spans = append(spans, [2]int{start, i})
	}
	return spans
}

// parseFstabLine returns nil for lines that mount nothing.
func parseFstabLine(line string) (*fstabEntry, [][2]int) {
	spans := fieldSpans(line)
	if len(spans) < 3 || line[spans[0][0]] == '#' {
		return nil, nil
	}
	field := func(i int) string { return unescape(line[spans[i][0]:spans[i][1]]) }
	e := &fstabEntry{spec: field(0), file: field(1), kind: field(2)}
	if len(spans) > 3 {
		e.options = strings.Split(field(3), ",")
	}
	return e, spans
}

// unescape decodes \ooo as getmntent does.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// fstabLine returns the line to write in place of line, and what was done to it;
// an untouched line is the same bytes.
func (j *job) fstabLine(line string) (out, what, why string) {
	e, spans := parseFstabLine(line)
	if e == nil {
		return line, "", ""
	}
	switch {
	case isNetworkMount(e):
		return j.offline(line, spans, e)
	case e.kind == "swap":
		return j.fstabSwap(line, spans, e)
	case !isDevice(e.spec):
		return line, "", "" // tmpfs, bind mounts and their like
	}
	fsys := j.fstabFilesystem(e)
	if fsys == nil {
		return j.fstabAbsent(line, spans, e)
	}
	options, dropped := cleanOptions(e, fsys.Type)
	if dropped != "" {
		line = setField(line, 3, strings.Join(options, ","))
		what, why = "dropped "+dropped+" of "+e.file, "it belongs to the old storage"
	}
	if !j.namesImage(e.spec) {
		line = setField(line, 0, "UUID="+fsys.UUID)
		what, why = fmt.Sprintf("%s: %s became UUID=%s", e.file, e.spec, fsys.UUID), "device names do not travel"
	}
	return line, what, why
}

var networkTypes = [...]string{"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "9p", "virtiofs", "lustre",
	"beegfs", "davfs", "fuse.sshfs", "fuse.s3fs", "afs", "ocfs2", "gfs2", "gpfs", "efs"}

func isNetworkMount(e *fstabEntry) bool {
	return slices.Contains(networkTypes[:], e.kind) || slices.Contains(e.options, "_netdev")
}

func isDevice(spec string) bool {
	if strings.HasPrefix(spec, "/dev/") {
		return true
	}
	tag, _, ok := strings.Cut(spec, "=")
	return ok && slices.Contains([]string{"UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"}, strings.ToUpper(tag))
}

// namesImage reports whether spec will find its filesystem by itself: by an
// identity that the replica's disk carries.
func (j *job) namesImage(spec string) bool {
	g := j.img
	switch tag, value, _ := strings.Cut(spec, "="); strings.ToUpper(tag) {
	case "UUID":
		return g.hasUUID(unquote(value))
	case "LABEL":
		return g.hasLabel(unquote(value))
	case "PARTUUID":
		return g.hasPartUUID(unquote(value))
	}
	if dir, name := path.Split(spec); strings.HasPrefix(spec, "/dev/disk/") {
		switch dir {
		case "/dev/disk/by-uuid/":
			return g.hasUUID(name)
		case "/dev/disk/by-label/":
			return g.hasLabel(name)
		case "/dev/disk/by-partuuid/":
			return g.hasPartUUID(name)
		}
	}
	return false
}

func unquote(s string) string { return strings.Trim(s, `"'`) }

// fstabFilesystem returns the filesystem of the image that the line means: the
// one it names, else the one the source had mounted where it says, else the one
// the source's device holds.
func (j *job) fstabFilesystem(e *fstabEntry) *Partition {
	if j.namesImage(e.spec) {
		return j.img.named(e.spec)
	}
	if f, _ := j.img.at(path.Clean("/" + e.file)); f != nil && (f.Type == e.kind || e.kind == "auto") {
		return &f.Partition
	}
	for _, f := range j.facts.GetFilesystems() {
		if f.GetDevice() == e.spec {
			if i := slices.IndexFunc(j.img.Partitions, func(p Partition) bool { return p.UUID == f.GetUuid() }); i >= 0 {
				return &j.img.Partitions[i]
			}
		}
	}
	return nil
}

// named returns the partition whose identity ends spec.
func (g *Image) named(spec string) *Partition {
	value := spec[strings.LastIndexAny(spec, "=/")+1:]
	value = unquote(value)
	for i, p := range g.Partitions {
		if strings.EqualFold(p.UUID, value) || p.Label == value || strings.EqualFold(p.PartUUID, value) {
			return &g.Partitions[i]
		}
	}
	return nil
}

// cleanOptions leaves out what describes storage that is not there any more.
func cleanOptions(e *fstabEntry, kind string) (options []string, dropped string) {
	var gone []string
	for _, o := range e.options {
		key, _, _ := strings.Cut(o, "=")
		stale := kind == "xfs" && slices.Contains([]string{"sunit", "swidth", "logdev", "rtdev", "logbsize"}, key) ||
			kind == "ext4" && slices.Contains([]string{"journal_dev", "journal_path", "stripe"}, key) ||
			kind == "btrfs" && (key == "device" || key == "subvolid")
		if stale {
			gone = append(gone, o)
		} else {
			options = append(options, o)
		}
	}
	if len(options) == 0 {
		options = []string{"defaults"}
	}
	return options, strings.Join(gone, ",")
}

func (j *job) fstabSwap(line string, spans [][2]int, e *fstabEntry) (out, what, why string) {
	if j.namesImage(e.spec) || strings.HasPrefix(e.spec, "/dev/zram") {
		return line, "", ""
	}
	if !isDevice(e.spec) && j.img.Exists(e.spec) {
		return line, "", ""
	}
	s := j.swapOf(e.spec)
	if s.GetFile() {
		made, err := j.makeSwapFile(s)
		if err != nil {
			j.warn("fstab: %v", err)
		}
		if made {
			return line, "made swap file " + e.spec + " again", "a pass carries no swap"
		}
	}
	if s != nil && j.img.hasUUID(s.GetUuid()) {
		return setField(line, 0, "UUID="+s.GetUuid()), fmt.Sprintf("swap: %s became UUID=%s", e.spec, s.GetUuid()), "device names do not travel"
	}
	return comment(line), "commented out swap " + e.spec, "the machine has no such swap space"
}

func (j *job) swapOf(path string) *agentpb.Swap {
	for _, s := range j.facts.GetSwaps() {
		if s.GetPath() == path {
			return s
		}
	}
	return nil
}

// fstabAbsent deals with a filesystem that was not replicated.
func (j *job) fstabAbsent(line string, spans [][2]int, e *fstabEntry) (out, what, why string) {
	why = "the machine has no such device"
	switch {
	case slices.Contains(e.options, "noauto"), slices.Contains(e.options, "nofail") && slices.Contains(e.options, deviceTimeout):
		return line, "", ""
	case !j.systemd():
		return comment(line), "commented out " + e.file, why
	}
	return addOptions(line, spans, e, "nofail", deviceTimeout), e.file + " may be absent", why
}

// offline keeps a drill from mounting what other machines serve.
func (j *job) offline(line string, spans [][2]int, e *fstabEntry) (out, what, why string) {
	if slices.Contains(e.options, "noauto") && slices.Contains(e.options, "nofail") {
		return line, "", ""
	}
	return addOptions(line, spans, e, "noauto", "nofail"), e.file + " is not mounted at boot", "it needs a network that is not there"
}

func addOptions(line string, spans [][2]int, e *fstabEntry, more ...string) string {
	options := slices.Clone(e.options)
	for _, o := range more {
		if !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	if len(spans) > 3 {
		return setField(line, 3, strings.Join(options, ","))
	}
	end := spans[2][1]
	return line[:end] + " " + strings.Join(options, ",") + line[end:]
}

// setField replaces a field and keeps everything between the fields.
func setField(line string, i int, value string) string {
	value = escapeField(value)
	spans := fieldSpans(line)
	if i >= len(spans) {
		end := spans[len(spans)-1][1]
		return line[:end] + " " + value + line[end:]
	}
	return line[:spans[i][0]] + value + line[spans[i][1]:]
}

var fieldEscapes = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)

func escapeField(s string) string { return fieldEscapes.Replace(s) }

func comment(line string) string { return commentMark + line }
