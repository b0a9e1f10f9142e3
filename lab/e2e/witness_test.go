package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/replica"
)

// mayDiffer covers what a copy leaves out, or what a running system changes all
// the time, by path within the whole system: the built-in excludes, what mkfs
// makes, and of the volatile list what a light server really touches.
var mayDiffer = regexp.MustCompile(`^(/boot|/srv)?/lost\+found$|^/(var/log/(wtmp|btmp|lastlog)|var/cache/leeward|var/lib/systemd/random-seed|swapfile|run/lab|tmp|var/tmp)(/|$)`)

// huge are files whose holes a witness would read for minutes; their data is
// compared by extents.
const huge = "sparse.img"

// pair is one filesystem on both sides.
type pair struct{ mountPoint, source, copy string }

// path names an entry of the filesystem as the system itself would.
func (p pair) path(rel string) string { return filepath.Join(p.mountPoint, rel) }

// TestWitnesses stops all writers and has the tools of others compare.
func TestWitnesses(t *testing.T) {
	w := need(t)
	w.quiet(t, servers...)
	w.in(t, "db1", `pg_ctlcluster $(ls /etc/postgresql) main stop`)
	w.in(t, "db2", `mariadb-admin shutdown`)
	w.in(t, "web1", `nginx -s quit`) // mon1 asks it now and then, and it logs that
	t.Cleanup(func() {
		w.in(t, "web1", `nginx`)
		w.in(t, "db1", `pg_ctlcluster $(ls /etc/postgresql) main start`)
		w.in(t, "db2", background("mariadb", "mariadbd --user=mysql")+`
for n in $(seq 100); do if mariadb-admin ping > /dev/null 2>&1; then break; fi; sleep 0.2; done`)
	})
	config := w.estate(t)
	w.must(t, config, "replicate")
	w.equal(t, config)
	for _, s := range servers {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			w.witness(t, s)
		})
	}
}

func (w *world) witness(t *testing.T, server string) {
	points := w.points(t, w.store(), server)
	m := w.clone(t, w.store(), points[0], true)
	var pairs []pair
	for _, v := range w.views(t, server) {
		dir := m.Root(v.filesystem)
		if dir == "" {
			t.Fatalf("the replica of %s has no %s", server, v.filesystem)
		}
		pairs = append(pairs, pair{v.mountPoint, v.dir, filepath.Join(dir, v.sub)})
	}
	for _, p := range pairs {
		rsync(t, p)
		extents(t, p)
		for _, l := range listings() {
			p.same(t, l.name, l.of(t, p.source), l.of(t, p.copy))
		}
	}
	w.verifyPackages(t, pairs)
	w.check(t, points[0])
}

// rsync compares everything rsync can.
func rsync(t *testing.T, p pair) {
	t.Helper()
	out := command(t, "", nil, "rsync", "-aHAXSxnc", "--delete", "--numeric-ids", "--itemize-changes", "--exclude="+huge, p.source+"/", p.copy+"/")
	var lines []string
	for l := range strings.Lines(out) {
		what, name, _ := strings.Cut(strings.TrimRight(l, "\n"), " ")
		if !mayDiffer.MatchString(p.path(strings.TrimLeft(name, " "))) {
			lines = append(lines, what+" "+name)
		}
	}
	if len(lines) > 0 {
		t.Errorf("rsync of %s finds %d differences:\n%s", p.mountPoint, len(lines), head(lines))
	}
}

// extents compares the data of huge sparse files, and that holes stayed holes.
func extents(t *testing.T, p pair) {
	t.Helper()
	for _, file := range strings.Fields(command(t, p.source, nil, "find", ".", "-name", huge)) {
		a, b := dataOf(t, filepath.Join(p.source, file)), dataOf(t, filepath.Join(p.copy, file))
		if a != b {
			t.Errorf("%s: data at the source %s, in the copy %s", p.path(file), a, b)
		}
	}
}

// dataOf digests where a file has data that is not zero, and what; blocks are of
// 64 KiB, which no hole of the tests is smaller than.
func dataOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 64 << 10
	buf, zero, h, n := make([]byte, block), make([]byte, block), blake3.New(), 0
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < end; at += block {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		at = max(at, data/block*block)
		k, err := f.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if string(buf[:k]) != string(zero[:k]) {
			fmt.Fprintf(h, "%d %d ", at, k)
			h.Write(buf[:k])
			n++
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > int64(n+16)*block {
		t.Errorf("%s takes %d bytes of disk for %d blocks of data", path, st.Blocks*512, n)
	}
	return fmt.Sprintf("%d bytes, %d blocks, %x", end, n, h.Sum(nil)[:8])
}

// listing is a tool that describes every entry of a tree.
type listing struct {
	name string
	of   func(t *testing.T, dir string) map[string]string // by path
}

func listings() []listing {
	return []listing{{"find", find}, {"getfattr", getfattr}, {"lsattr", lsattr}, {"getcap", getcap}}
}

// find lists mode, owners, size, time, links, type and link target. The size of a
// directory is the filesystem's own business.
func find(t *testing.T, dir string) map[string]string {
	const rest = `%m %U %G %T@ %n %y %l`
	out := command(t, dir, nil, "find", ".", "-type", "d", "-printf", `%p\0`+rest+`\0`, "-o", "-printf", `%p\0`+rest+` %s\0`)
	f := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	all := map[string]string{}
	for i := 0; i+1 < len(f); i += 2 {
		all[f[i]] = f[i+1]
	}
	return all
}

func getfattr(t *testing.T, dir string) map[string]string {
	out := command(t, dir, nil, "getfattr", "-dm-", "-R", "-h", "-P", "-e", "hex", ".")
	all := map[string]string{}
	for block := range strings.SplitSeq(strings.TrimSpace(out), "\n\n") {
		name, rest, _ := strings.Cut(block, "\n")
		lines := strings.Split(rest, "\n")
		slices.Sort(lines)
		all[strings.TrimPrefix(name, "# file: ")] = strings.Join(lines, " ")
	}
	return all
}

// lsattr lists flags and project numbers, but for what the filesystem sets by
// itself: I, an indexed directory, and e, extents.
func lsattr(t *testing.T, dir string) map[string]string {
	out := command(t, dir, []int{0, 1}, "lsattr", "-apR", ".")
	all := map[string]string{}
	for l := range strings.Lines(out) {
		f := strings.Fields(l)
		if len(f) < 3 || len(f[1]) < 10 || strings.Trim(f[1], "-aAcCdDeEFiIjmNPsStTuVx") != "" {
			continue // a heading, or the rest of a name with a line break
		}
		_, name, _ := strings.Cut(l, f[1]+" ")
		all[strings.TrimRight(name, "\n")] += f[0] + " " + strings.NewReplacer("I", "-", "e", "-").Replace(f[1])
	}
	return all
}

func getcap(t *testing.T, dir string) map[string]string {
	all := map[string]string{}
	for l := range strings.Lines(command(t, dir, nil, "getcap", "-r", ".")) {
		i := strings.LastIndex(strings.TrimSpace(l), " ")
		all[l[:max(i, 0)]] = strings.TrimSpace(l[max(i, 0):])
	}
	return all
}

// same insists that two listings are equal.
func (p pair) same(t *testing.T, tool string, a, b map[string]string) {
	t.Helper()
	var lines []string
	for path := range a {
		if in, ok := b[path]; (!ok || in != a[path]) && !mayDiffer.MatchString(p.path(path)) {
			lines = append(lines, fmt.Sprintf("%q: %q at the source, %q in the copy", p.path(path), a[path], cmp.Or(in, "nothing")))
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok && !mayDiffer.MatchString(p.path(path)) {
			lines = append(lines, fmt.Sprintf("%q: only in the copy: %q", p.path(path), b[path]))
		}
	}
	if slices.Sort(lines); len(lines) > 0 {
		t.Errorf("%s of %s finds %d differences:\n%s", tool, p.mountPoint, len(lines), head(lines))
	}
	t.Logf("%s of %s: %d entries", tool, p.mountPoint, len(a))
}

func head(lines []string) string {
	if n := len(lines); n > 20 {
		lines = append(slices.Clone(lines[:20]), fmt.Sprintf("and %d more", n-20))
	}
	return strings.Join(lines, "\n")
}

// verifyPackages has dpkg check both trees, put together as they are mounted.
func (w *world) verifyPackages(t *testing.T, pairs []pair) {
	t.Helper()
	said := func(of func(pair) string) string {
		root := ""
		for _, p := range pairs {
			if p.mountPoint == "/" {
				root = w.mountDir(t, "--bind", of(p))
			} else {
				command(t, "", nil, "mount", "--bind", of(p), filepath.Join(root, p.mountPoint))
				defer command(t, "", nil, "umount", filepath.Join(root, p.mountPoint))
			}
		}
		return command(t, "", []int{0, 1, 2}, "dpkg", "--root="+root, "-V")
	}
	if a, b := said(func(p pair) string { return p.source }), said(func(p pair) string { return p.copy }); a != b {
		t.Errorf("dpkg -V says of the source\n%sand of the copy\n%s", a, b)
	}
}

// check has the filesystems' own checkers judge a point.
func (w *world) check(t *testing.T, p *replica.Point) {
	t.Helper()
	s, err := replica.Open(t.Context(), w.store())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Scratch("e2e-check-" + string(p.Manifest.Server))
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if said, err := p.Check(context.WithoutCancel(t.Context()), dir); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}
