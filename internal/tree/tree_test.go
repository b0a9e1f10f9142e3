package tree

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

type noLimits struct{}

func (noLimits) Disk(context.Context, int) error { return nil }
func (noLimits) CPU(context.Context) error       { return nil }

// world is a source directory, a replica directory and what lies between.
type world struct {
	t        testing.TB
	src, dst string
	state    string
	excludes []string
	index    *chunk.Index
	sources  *Sources
	tree     string
	scanGov  Governor // what the scan and the reading of files go through
	copyGov  Governor
	btrfs    bool
	view     *view // of the source, where it is not w.src as it is
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices and flags are part of a copy")
	}
	dir := t.TempDir()
	w := &world{t: t, src: dir + "/src", dst: dir + "/dst", state: dir + "/state", index: chunk.NewIndex(), sources: NewSources(), tree: "test:/",
		scanGov: noLimits{}, copyGov: noLimits{}}
	for _, d := range []string{w.src, w.dst, w.state} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		exec.Command("chattr", "-R", "-i", "-a", dir).Run() // or the directory cannot be removed
		w.index.Close()
	})
	return w
}

func openRoot(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// root opens a directory once for the world's life.
func (w *world) root(dir string) int { return openRoot(w.t, dir) }

// connect starts a source service for w.src and returns the target's end.
func (w *world) connect() *pipe.Conn {
	ex, err := NewExcludes(w.excludes)
	if err != nil {
		w.t.Fatal(err)
	}
	v := w.view
	if v == nil {
		v = &view{root: w.root(w.src), excludes: ex, btrfs: w.btrfs}
	}
	scan, copy := NewService(w.scanGov, w.state), NewService(w.copyGov, w.state)
	scan.views["/"], copy.views["/"] = v, v
	handlers := scan.Handlers()
	handlers["tree.copy"] = copy.Handlers()["tree.copy"]
	return link(w.t, handlers)
}

// pass runs one pass and returns its result.
func (w *world) pass(ctx context.Context) (*Result, error) {
	w.t.Helper()
	return w.passOn(ctx, w.connect())
}

// passOver runs a pass over a connection; it has to succeed.
func (w *world) passOver(c *pipe.Conn) *Result {
	w.t.Helper()
	r, err := w.passOn(context.Background(), c)
	if err != nil {
		w.t.Fatalf("pass: %v", err)
	}
	return r
}

func (w *world) passOn(ctx context.Context, c *pipe.Conn) (*Result, error) {
	w.t.Helper()
	cat, err := OpenCatalog(w.state + "/catalog.db")
	if err != nil {
		w.t.Fatal(err)
	}
	defer cat.Close()
	if err := w.index.Attach(w.tree, w.state+"/index"); err != nil {
		w.t.Fatal(err)
	}
	p := &Pass{Conns: []*pipe.Conn{c}, Filesystem: "/", Root: w.root(w.dst), Btrfs: w.btrfs, Catalog: cat,
		Index: w.index, Tree: w.tree, Sources: w.sources}
	return p.Run(ctx)
}

// sync runs a pass that has to succeed.
func (w *world) sync() *Result {
	w.t.Helper()
	r, err := w.pass(context.Background())
	if err != nil {
		w.t.Fatalf("pass: %v", err)
	}
	for _, p := range r.Problems {
		w.t.Errorf("problem: %q: %s", p.Path, p.Text)
	}
	return r
}

// listing returns what verification compares of every entry below dir.
func listing(t testing.TB, dir string, excludes []string) map[string]string {
	t.Helper()
	ex, err := NewExcludes(excludes)
	if err != nil {
		t.Fatal(err)
	}
	d := &digester{root: openRoot(t, dir), excludes: ex}
	out := map[string]string{}
	work := []string{""}
	for len(work) > 0 {
		entries, children := d.entries(context.Background(), work[0])
		work = append(work[1:], children...)
		for _, e := range entries {
			out[string(e.Path)] = fmt.Sprintf("%o %d:%d size %d links %d time %d.%09d flags %x xattrs %v target %q dev %d digest %x",
				e.Meta.Mode, e.Meta.Uid, e.Meta.Gid, e.Meta.Size, e.Meta.Links*b2u(kindOf(e.Meta.Mode) != unix.S_IFDIR), e.Meta.MtimeSec, e.Meta.MtimeNsec, e.Meta.Flags, e.Meta.Xattrs, e.Meta.Target, e.Meta.Device, e.Digest)
		}
	}
	for _, p := range d.problems {
		t.Errorf("digest of %s: %q %s", dir, p.Path, p.Text)
	}
	return out
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func (w *world) equal() {
	w.t.Helper()
	a, b := listing(w.t, w.src, w.excludes), listing(w.t, w.dst, w.excludes)
	n := 0
	for path, x := range a {
		if y := b[path]; x != y && n < 10 {
			n++
			w.t.Errorf("%q:\nsource  %s\nreplica %s", path, x, y)
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok && n < 10 {
			n++
			w.t.Errorf("%q: only in the replica", path)
		}
	}
}

// rsyncAgrees asks an independent witness.
func (w *world) rsyncAgrees() {
	w.t.Helper()
	if _, err := exec.LookPath("rsync"); err != nil {
		w.t.Log("no rsync here: the witness is missing")
		return
	}
	out, err := exec.Command("rsync", "-aHAXSxnc", "--delete", "--numeric-ids", "--itemize-changes", w.src+"/", w.dst+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		w.t.Errorf("rsync sees differences: %v\n%s", err, out)
	}
}

func (w *world) sh(script string) {
	w.t.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = w.src
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

const zoo = `
mkdir -p a/b/c empty "sp ace" $'new\nline' $'bad\xff\xfeutf8'
echo hello > a/b/c/hello; chmod 4755 a/b/c/hello
head -c 3000000 /dev/urandom > a/random
seq 1 200000 > a/text
ln a/text a/b/hard1; ln a/text $'new\nline/hard2'
ln -s ../nowhere a/link; ln -s /etc/passwd abslink; touch -h -d '2001-02-03 04:05:06.789' a/link
mkfifo fifo; mknod chr c 1 3; mknod blk b 7 200; mknod whiteout c 0 0
truncate -s 50M sparse; printf x | dd of=sparse bs=1 seek=30000000 conv=notrunc status=none
truncate -s 10000 allhole
head -c 5000000 /dev/zero > zeros
touch "$(printf 'n%.0s' {1..255})"
touch -- '-dash' '*star*' '"quote"' '\back' '.hidden' '..dots' 'ü'
setfattr -n user.test -v value a/text; setfattr -n trusted.test -v secret a/random; setfattr -h -n trusted.link -v l a/link
setfacl -m u:12345:rw a/random; setfacl -d -m g:54321:rx a/b
cp /bin/true cap; setcap cap_net_raw+ep cap
echo log > append; chattr +a append; echo fixed > immutable; chattr +i immutable
mkdir lockeddir; echo x > lockeddir/x; chattr +i lockeddir; echo n > noatime; chattr +Ad noatime
chown -R 123456:654321 "sp ace"; chown 1000:1000 a/b/c; chown -h 99:98 abslink
ln immutable immutable2 2>/dev/null || true
touch -d '1969-12-31 23:00:00.123456789' old; touch -d '2100-01-01' future
`

func TestEverythingIsCarried(t *testing.T) {
	w := newWorld(t)
	w.sh(zoo)
	if err := unix.Mknod(w.src+"/sock", unix.S_IFSOCK|0o640, 0); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.equal()
	w.rsyncAgrees()
	var a, b unix.Stat_t
	for _, f := range []string{"sparse", "allhole"} {
		unix.Stat(w.src+"/"+f, &a)
		unix.Stat(w.dst+"/"+f, &b)
		if b.Blocks > a.Blocks+64 {
			t.Errorf("%s: %d blocks in the replica, %d in the source", f, b.Blocks, a.Blocks)
		}
	}
	r := w.sync()
	if r.Files != 0 || r.Deleted != 0 {
		t.Errorf("a pass with nothing changed handled %d files and deleted %d", r.Files, r.Deleted)
	}
	w.equal()
}

func TestChangesAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.sh(zoo)
	w.sync()
	w.sh(`
chattr -i immutable lockeddir; chattr -a append
echo changed > immutable; echo more >> append; chattr +i immutable
rm -r lockeddir; echo now a file > lockeddir
rm a/link; mkdir a/link; echo in > a/link/in
mv a/b moved; rm fifo; mkdir fifo; rm chr; mknod chr c 1 5
printf y | dd of=sparse bs=1 seek=10 conv=notrunc status=none
fallocate -p -o 4096 -l 1000000 zeros
printf patch | dd of=a/random bs=1 seek=1500000 conv=notrunc status=none
echo tail >> a/text
setfattr -x user.test a/text; setfattr -n user.other -v 1 a/text
chmod 600 cap; setcap cap_net_admin+ep cap
truncate -s 100 allhole; rm old; ln future future2; chown 5:6 empty
`)
	r := w.sync()
	w.equal()
	w.rsyncAgrees()
	if r.Sent > 1<<20 {
		t.Errorf("%d bytes sent for small changes", r.Sent)
	}
}

func TestMovedFilesDoNotCross(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir d; for i in $(seq 20); do head -c 300000 /dev/urandom > d/f$i; done`)
	w.sync()
	w.sh(`mkdir -p new/deep; mv d new/deep/e; mv new/deep/e/f1 top; cp new/deep/e/f2 copy; cat new/deep/e/f3 new/deep/e/f4 > joined`)
	r := w.sync()
	w.equal()
	if r.Sent > 300000 {
		t.Errorf("%d bytes sent for moves and copies", r.Sent)
	}
}

func TestSeedSparesTheWire(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir d; for i in $(seq 20); do head -c 300000 /dev/urandom > d/f$i; done`)
	w.sync()
	seedDst := w.dst
	// Another server with the same content under other names.
	w2 := newWorld(t)
	w2.index, w2.sources, w2.tree = w.index, w.sources, "other:/"
	w2.sources.Add(w.tree, openRoot(t, seedDst))
	exec.Command("cp", "-a", w.src+"/d", w2.src+"/renamed").Run()
	r := w2.sync()
	w2.equal()
	if r.Sent > 20*minIndexed {
		t.Errorf("%d bytes sent though another replica has them all", r.Sent)
	}
	// A seed that has changed since it was indexed is not believed.
	w3 := newWorld(t)
	w3.index, w3.sources, w3.tree = w.index, w.sources, "third:/"
	exec.Command("bash", "-c", "for f in "+seedDst+"/d/*; do echo spoiled | dd of=$f conv=notrunc status=none; done; rm -r "+w2.dst+"/renamed").Run()
	exec.Command("cp", "-a", w.src+"/d", w3.src+"/again").Run()
	w3.sync()
	w3.equal()
}

func TestExcludes(t *testing.T) {
	w := newWorld(t)
	w.excludes = []string{"/tmp/*", "/cache/**", "/**/core", "/one"}
	w.sh(`mkdir -p tmp/x cache/y/z keep/core.d; touch tmp/f cache/g keep/core keep/corer one; touch -d 2020-01-01 tmp cache keep .`)
	w.sync()
	w.equal()
	for path, want := range map[string]bool{"tmp": true, "tmp/f": false, "cache": true, "cache/g": false, "keep/core": false, "keep/corer": true, "one": false} {
		if _, err := os.Lstat(w.dst + "/" + path); (err == nil) != want {
			t.Errorf("%s in the replica: %v, want %v", path, err == nil, want)
		}
	}
}

// TestInterruptedPassResumes cuts passes after ever more time and then lets one
// finish.
func TestInterruptedPassResumes(t *testing.T) {
	w := newWorld(t)
	w.sh(zoo + `for i in $(seq 300); do mkdir -p many/$((i%17)); head -c $((i*200)) /dev/urandom > many/$((i%17))/$i; done; head -c 20000000 /dev/urandom > big`)
	for i := range 8 {
		ctx, cancel := context.WithCancel(context.Background())
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for n := 0; n < 1<<(2*i); n++ {
				if ctx.Err() != nil {
					return
				}
				exec.Command("true").Run()
			}
			cancel()
		}()
		w.pass(ctx)
		cancel()
		<-stop
	}
	w.sync()
	w.equal()
	w.rsyncAgrees()
	if r := w.sync(); r.Files != 0 {
		t.Errorf("%d files handled after everything was equal", r.Files)
	}
}

// TestRandomChanges mutates a tree at random and compares after each pass.
func TestRandomChanges(t *testing.T) {
	w := newWorld(t)
	seed := rand.Uint64()
	if s := os.Getenv("LEEWARD_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	t.Logf("seed %d", seed)
	m := &mutator{r: rand.New(rand.NewPCG(seed, 1)), root: w.src}
	for round := range 12 {
		for range 50 {
			m.step()
		}
		w.sync()
		w.equal()
		if t.Failed() {
			t.Fatalf("differs after round %d, seed %d", round, seed)
		}
	}
	w.rsyncAgrees()
}

func TestDeepTree(t *testing.T) {
	w := newWorld(t)
	fd := openRoot(t, w.src)
	for i := range 4000 {
		if err := unix.Mkdirat(fd, "dd", 0o755); err != nil {
			t.Fatal(i, err)
		}
		next, err := unix.Openat(fd, "dd", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(i, err)
		}
		unix.Close(fd)
		fd = next
	}
	f, _ := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	unix.Write(f, []byte("deep"))
	unix.Close(f)
	path := strings.Repeat("dd/", 4000) + "bottom"
	w.sync()
	out, err := openAt(openRoot(t, w.dst), path, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("the file 4,000 directories down is not in the replica: %v", err)
	}
	unix.Close(out)
	if err := removeTree(openRoot(t, w.src), "dd"); err != nil {
		t.Fatal(err)
	}
	w.sync()
	w.equal()
}

func TestManyEntries(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir m; cd m; seq 1 5000 | xargs touch`)
	w.sync()
	w.equal()
	w.sh(`cd m; rm 17 18 19 4999; touch new1 0 zzz; echo x > 2500`)
	r := w.sync()
	w.equal()
	if r.Files > 20 {
		t.Errorf("%d files handled for 5 changes", r.Files)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, bad := range []string{"..", ".", "a/..", "/etc", "a//b", "a/", "x\x00y", strings.Repeat("n", 256)} {
		if checkPath(bad) == nil {
			t.Errorf("path %q is accepted", bad)
		}
	}
	for _, good := range []string{"", "a", "a/b", "...", "a\nb/\xff"} {
		if err := checkPath(good); err != nil {
			t.Errorf("path %q: %v", good, err)
		}
	}
}

func TestOpenAtFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+"/root/d", 0o755)
	os.WriteFile(dir+"/secret", []byte("s"), 0o600)
	os.Symlink("../..", dir+"/root/d/up")
	os.Symlink("/etc/passwd", dir+"/root/abs")
	root := openRoot(t, dir+"/root")
	for _, p := range []string{"../secret", "d/up/secret", "abs", "d/../../secret", "/etc/passwd"} {
		if fd, err := openAt(root, p, unix.O_RDONLY); err == nil {
			unix.Close(fd)
			t.Errorf("%s led out of the root", p)
		}
	}
}

func TestPageRoundTrip(t *testing.T) {
	entries := []entry{{name: "a", mode: 0o100644, size: 5, mtimeSec: -3, ctimeSec: 1 << 40, inode: 7, links: 1}, {name: "b", mode: 0o20600, device: 259, inode: 3}}
	p := makePage(entries, "c")
	got, err := unpack(p, false)
	if err != nil || len(got) != 2 || got[0] != entries[0] || got[1] != entries[1] {
		t.Errorf("%v, %v", got, err)
	}
	p.Name[1] = []byte("../x")
	if _, err := unpack(p, false); err == nil {
		t.Error("a page with ../x was accepted")
	}
	p.Name[1] = []byte("a")
	if _, err := unpack(p, false); err == nil {
		t.Error("a page with a name twice was accepted")
	}
	if !bytes.Equal(p.First, []byte("a")) {
		t.Error("first name")
	}
}
