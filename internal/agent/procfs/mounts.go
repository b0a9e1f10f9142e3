// Package procfs parses what the kernel shows under /proc and what a few plain
// files under /etc hold. It takes bytes and returns values; it opens nothing. No
// input makes it fail altogether: lines it cannot read are left out and counted.
package procfs

import (
	"strconv"
	"strings"
)

// Mount is a line of mountinfo, see proc(5).
type Mount struct {
	ID, Parent   int
	Major, Minor uint32
	Root         string // the part of the filesystem that is shown
	Point        string
	Options      string // of the mount
	Type         string
	Source       string
	SuperOptions string // of the filesystem
}

// ParseMountinfo reads a mountinfo file. bad is the number of lines it left out.
func ParseMountinfo(data []byte) (mounts []Mount, bad int) {
	for line := range lines(data) {
		m, ok := parseMount(line)
		if !ok {
			bad++
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts, bad
}

func parseMount(line string) (m Mount, ok bool) {
	left, right, found := strings.Cut(line, " - ")
	f, g := strings.Split(left, " "), strings.Split(right, " ")
	if !found || len(f) < 6 || len(g) < 2 {
		return m, false
	}
	major, minor, found := strings.Cut(f[2], ":")
	id, err1 := strconv.Atoi(f[0])
	parent, err2 := strconv.Atoi(f[1])
	maj, err3 := strconv.ParseUint(major, 10, 32)
	mnr, err4 := strconv.ParseUint(minor, 10, 32)
	if !found || err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return m, false
	}
	m = Mount{
		ID: id, Parent: parent, Major: uint32(maj), Minor: uint32(mnr),
		Root: Unescape(f[3]), Point: Unescape(f[4]), Options: f[5],
		Type: Unescape(g[0]), Source: Unescape(g[1]),
	}
	if len(g) > 2 {
		m.SuperOptions = g[2]
	}
	return m, strings.HasPrefix(m.Point, "/")
}

// Unescape undoes the octal escapes (\040 is a space) of mountinfo, fstab and
// /proc/swaps. What is no escape stays as it is.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			v := int(s[i+1]-'0')<<6 | int(s[i+2]-'0')<<3 | int(s[i+3]-'0')
			if v <= 0xff {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// FstabEntry is a line of /etc/fstab.
type FstabEntry struct {
	Spec, Point, Type, Options string
}

// ParseFstab reads fstab. bad is the number of lines with fewer than three fields.
func ParseFstab(data []byte) (entries []FstabEntry, bad int) {
	for line := range lines(data) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) < 3 {
			bad++
			continue
		}
		e := FstabEntry{Spec: Unescape(f[0]), Point: Unescape(f[1]), Type: f[2], Options: "defaults"}
		if len(f) > 3 {
			e.Options = Unescape(f[3])
		}
		entries = append(entries, e)
	}
	return entries, bad
}

// Swap is a line of /proc/swaps.
type Swap struct {
	Path  string
	File  bool
	Bytes uint64 // without the header page
}

// ParseSwaps reads /proc/swaps. Swap whose file was removed is left out.
func ParseSwaps(data []byte) (swaps []Swap, bad int) {
	for line := range lines(data) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "Filename" {
			continue
		}
		if len(f) < 3 {
			bad++
			continue
		}
		kib, err := strconv.ParseUint(f[2], 10, 54)
		path := Unescape(f[0])
		if err != nil || !strings.HasPrefix(path, "/") {
			bad++
			continue
		}
		if strings.HasSuffix(path, " (deleted)") {
			continue
		}
		swaps = append(swaps, Swap{Path: path, File: f[1] == "file", Bytes: kib << 10})
	}
	return swaps, bad
}
