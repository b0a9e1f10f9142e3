package protect

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// judged is a pass after a history of the given changes, an hour apart.
func judged(now replica.Changes, gap time.Duration, past ...replica.Changes) []replica.Anomaly {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &replica.Manifest{Server: "web1", Filesystems: []replica.FilesystemState{{MountPoint: "/", Changes: &now}}}
	for i, c := range past {
		at := begin.Add(time.Duration(i) * time.Hour)
		m.History = append(m.History, replica.PassChanges{ID: dr.NewPointID(at), Filesystems: map[string]replica.Changes{"/": c}})
		m.Started = at.Add(gap)
	}
	return judgeChanges(m)
}

func TestJudgeChanges(t *testing.T) {
	const mib = 1 << 20
	usual := func(i int) replica.Changes {
		return replica.Changes{Entries: 10_000, Bytes: 1000 * mib, Changed: int64(50 + 10*i), ChangedBytes: int64(20+i) * mib, Added: 30, AddedBytes: 10 * mib,
			Sent: 30 * mib, Stiff: int64(3+i) * mib}
	}
	var past []replica.Changes
	for i := range 8 {
		past = append(past, usual(i))
	}
	with := func(f func(*replica.Changes)) replica.Changes {
		c := usual(4)
		f(&c)
		return c
	}
	for _, c := range []struct {
		name string
		now  replica.Changes
		gap  time.Duration
		want string
	}{
		{"as ever", usual(7), time.Hour, ""},
		{"much is new", with(func(c *replica.Changes) {
			c.Added, c.AddedBytes, c.Sent, c.Stiff = 50_000, 900*mib, 900*mib, 850*mib
		}), time.Hour, ""},
		{"encrypted in place", with(func(c *replica.Changes) { c.Changed, c.ChangedBytes, c.Sent, c.Stiff = 9000, 900*mib, 900*mib, 890*mib }), time.Hour, "files bytes content"},
		{"encrypted under other names", with(func(c *replica.Changes) {
			c.Added, c.Removed, c.RemovedBytes, c.Sent, c.Stiff = 9000, 9000, 900*mib, 900*mib, 890*mib
		}), time.Hour, "files bytes content"},
		{"a little is encrypted", with(func(c *replica.Changes) { c.ChangedBytes, c.Sent, c.Stiff = 90*mib, 90*mib, 88*mib }), time.Hour, "content"},
		{"emptied", with(func(c *replica.Changes) { c.Removed, c.RemovedBytes = 9990, 999*mib }), time.Hour, "files bytes"},
		{"all files cut to nothing", with(func(c *replica.Changes) {
			c.Changed, c.ChangedBytes, c.ShrunkBytes, c.Sent, c.Stiff = 9000, 900*mib, 900*mib, 0, 0
		}), time.Hour, "files bytes"},
		{"a large file of which little changed", with(func(c *replica.Changes) { c.ChangedBytes += 900 * mib }), time.Hour, ""},
		{"a few files of a small disk", replica.Changes{Entries: 20, Bytes: 30 * mib, Changed: 20, ChangedBytes: 30 * mib, Sent: 12 * mib, Stiff: 12 * mib}, time.Hour, ""},
		{"a third changed", with(func(c *replica.Changes) { c.Changed = 3300 }), time.Hour, "files"},
		{"a third changed in a week", with(func(c *replica.Changes) { c.Changed = 3300 }), 7 * 24 * time.Hour, ""},
	} {
		var kinds []string
		for _, a := range judged(c.now, c.gap, past...) {
			kinds = append(kinds, a.Kind)
			if a.Share <= a.Limit || a.Usual > a.Limit || a.Passes != 8 || !strings.Contains(a.Text, "usually") {
				t.Errorf("%s: %+v", c.name, a)
			}
		}
		if got := strings.Join(kinds, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	gone := with(func(c *replica.Changes) { c.Removed = 9990 })
	if got := judged(gone, time.Hour, past[:leastPasses-1]...); len(got) > 0 {
		t.Errorf("judged by too few passes: %+v", got)
	}
	wild := make([]replica.Changes, 8)
	for i := range wild {
		wild[i] = with(func(c *replica.Changes) { c.Changed = int64(1000 * (1 + i%5)) })
	}
	if got := judged(with(func(c *replica.Changes) { c.Changed = 6000 }), time.Hour, wild...); len(got) > 0 {
		t.Errorf("where much changes all the time: %+v", got)
	}
}

// pointsWorld makes passes from one real filesystem into a replica, with a point after
// each.
type pointsWorld struct {
	t     *testing.T
	dir   string // of the store
	from  string
	pass  *serverPass
	carry *tree.Pass
	src   *source
	at    time.Time
}

func newPointsWorld(t *testing.T) *pointsWorld { return newPointsWorldOf(t, 1<<30) }

// newPointsWorldOf is newPointsWorld with a store of so many bytes.
func newPointsWorldOf(t *testing.T, size int64) *pointsWorld {
	from := mounted(t, 512)
	ctx := t.Context()
	dir := t.TempDir()
	if err := replica.EnsurePool(ctx, dir, replica.PoolOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := replica.ReleasePool(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	store, err := replica.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := store.Replica("web1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rep.Close() })
	facts := &agentpb.Facts{Host: &agentpb.Hello{Hostname: "web1"}, Filesystems: []*agentpb.Filesystem{{MountPoint: "/", Type: "ext4",
		Uuid: "5b1ef2a4-7d0e-4c4e-9a39-6c1a3a0d1f11", PartUuid: "0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a001", SizeBytes: 512 << 20, Inodes: 32768, BlockSize: 4096, InodeSize: 256,
		Features: []string{"has_journal", "ext_attr", "dir_index", "filetype", "extent", "64bit", "metadata_csum"}}}}
	layout, err := replica.PlanLayout(facts, replica.LayoutOptions{Server: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rep.Prepare(ctx, layout); err != nil {
		t.Fatal(err)
	}
	m, err := rep.Mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	estate := &config.Estate{Servers: []config.Server{{Name: "web1"}}}
	w := &pointsWorld{t: t, dir: dir, from: from, carry: newPass(t, from, m.Root("/")), src: &source{facts: facts}, at: time.Now().Add(-48 * time.Hour)}
	w.pass = &serverPass{run: &run{Options: Options{Estate: estate}, store: store}, server: &estate.Servers[0], replica: rep, mounted: m}
	return w
}

// point carries what the source has now and makes a point of it and of its group.
func (w *pointsWorld) point() *replica.Point { return w.pointOf("all") }

func (w *pointsWorld) pointOf(group string) *replica.Point {
	w.t.Helper()
	ctx := w.t.Context()
	w.at = w.at.Add(time.Hour)
	p := w.pass
	p.started, p.result, p.content = w.at, ServerRun{Server: "web1", Outcome: dr.Done}, nil
	w.carry.Progress = &tree.Progress{}
	_, sum, err := p.passTwice(ctx, w.carry, catalogPath(p.replica, "/"))
	if err != nil {
		w.t.Fatal(err)
	}
	p.count("/", w.carry.Progress)
	p.states = map[string]*replica.FilesystemState{"/": {MountPoint: "/", Type: "ext4", Digest: sum.Digest, Entries: sum.Entries, Bytes: sum.Bytes, Consistency: dr.Fuzzy, At: w.at}}
	if err := p.point(ctx, w.src); err != nil {
		w.t.Fatal(err)
	}
	if len(p.result.Warnings) > 0 {
		w.t.Errorf("warnings %q", p.result.Warnings)
	}
	groups := p.run.groupPoints(ctx, w.at, &RunResult{Servers: []ServerRun{p.result}})
	if len(groups) != 1 || groups[0].Outcome != dr.Done || groups[0].Group != group {
		w.t.Fatalf("groups %+v", groups)
	}
	return p.result.made
}

// release ends the work on the replica, so that others can.
func (w *pointsWorld) release() {
	w.t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		w.t.Fatal(err)
	}
	defer null.Close()
	w.carry.Sources.Remove(w.carry.Tree)
	err = errors.Join(unix.Dup3(int(null.Fd()), w.carry.Root, unix.O_CLOEXEC), // it is closed at the end
		w.pass.mounted.Close(), w.pass.replica.Close())
	if err != nil {
		w.t.Fatal(err)
	}
}

// letters is a shell function that writes so many lines of text, from a number on.
const letters = `letters() { seq -f 'invoice %.0f of customer Meyer, paid by transfer' $1 $(($1+$2)); }; `

// encrypt replaces each file below the directory by its content in AES-CTR, under
// another name if rename is set, and returns how many there were.
func encrypt(t *testing.T, dir string, rename bool) (n int) {
	t.Helper()
	key, iv := make([]byte, 32), make([]byte, aes.BlockSize)
	rand.Read(key)
	rand.Read(iv)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	stream := cipher.NewCTR(block, iv)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".locked") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		stream.XORKeyStream(b, b)
		n++
		if !rename {
			return os.WriteFile(path, b, 0o644)
		}
		if err := os.WriteFile(path+".locked", b, 0o644); err != nil {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func kindsOf(p *replica.Point) (out []string) {
	for _, a := range p.Manifest.Anomalies {
		out = append(out, a.Kind)
	}
	return out
}

// TestUnusualChanges lets a real tree live, grow, be encrypted, and be emptied.
func TestUnusualChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes a dozen passes; -short was given")
	}
	w := newPointsWorld(t)
	shell(t, w.from, letters+`mkdir docs logs; for i in $(seq 600); do letters $i 1200 > docs/$i; done`)
	last := w.point()
	if last.Manifest.Filesystems[0].Changes != nil {
		t.Error("the first pass is compared with something")
	}
	for i := range 6 {
		shell(t, w.from, letters+fmt.Sprintf(`letters 5 500 >> logs/log; for i in $(seq 5); do letters ${i}%d7 900 > docs/new-%d-$i; letters $((i*%d+1)) 1400 > docs/$i; done; rm -f docs/59%d`, i, i, i+2, i))
		if last = w.point(); len(last.Manifest.Anomalies) > 0 {
			t.Fatalf("ordinary work, pass %d: %+v", i, last.Manifest.Anomalies)
		}
	}
	if c := last.Manifest.Filesystems[0].Changes; c == nil || c.Changed != 6 || c.Added != 5 || c.Removed != 1 || c.Sent == 0 || c.Stiff > c.Sent/2 {
		t.Errorf("changes of ordinary work: %+v", c)
	}
	shell(t, w.from, `mkdir pictures; for i in $(seq 400); do head -c 100000 /dev/urandom > pictures/$i.jpg; done`)
	good := w.point()
	if c := good.Manifest.Filesystems[0].Changes; len(good.Manifest.Anomalies) > 0 || c.Stiff < 39_000_000 {
		t.Errorf("ordinary growth: %+v, %+v", good.Manifest.Anomalies, c)
	}
	n := encrypt(t, filepath.Join(w.from, "docs"), true)
	bad := w.point()
	t.Logf("%d files encrypted: %+v", n, bad.Manifest.Anomalies)
	if got := kindsOf(bad); !slices.Equal(got, []string{"files", "content"}) { // of 74 MiB 36 are rewritten
		t.Errorf("after %d files were encrypted: %v", n, got)
	}
	w.pinned(good, "web1/"+string(good.ID), "all/"+string(good.ID))
	shell(t, w.from, `seq 5000 >> logs/log`)
	calm := w.point()
	if len(calm.Manifest.Anomalies) > 0 {
		t.Errorf("the pass after: %+v", calm.Manifest.Anomalies)
	}
	shell(t, w.from, `rm -r docs pictures`)
	empty := w.point()
	t.Logf("emptied: %+v", empty.Manifest.Anomalies)
	if got := kindsOf(empty); !slices.Equal(got, []string{"files", "bytes"}) {
		t.Errorf("after all was removed: %v", got)
	}
	w.pinned(calm, "web1/"+string(calm.ID), "all/"+string(calm.ID))
	// None of the pinned goes, whatever is kept.
	if _, err := w.pass.replica.Retain(replica.Retention{Keeps: []replica.Keep{{Last: 1}}}); err != nil {
		t.Fatal(err)
	}
	points, err := w.pass.replica.Points()
	if err != nil || FindPoint(points, good.ID) == nil || FindPoint(points, calm.ID) == nil {
		t.Errorf("left are %d points, %v", len(points), err)
	}
}

// pinned insists that exactly these were pinned in the last pass, and why.
func (w *pointsWorld) pinned(good *replica.Point, want ...string) {
	w.t.Helper()
	if got := w.pass.result.Pinned; !slices.Equal(got, want) {
		w.t.Errorf("pinned %v, want %v", got, want)
	}
	m, err := good.Place().Marks()
	if err != nil || m.Pin == nil || !m.Pin.Automatic || !strings.Contains(m.Pin.Reason, "unusual change") {
		w.t.Errorf("marks of %s: %+v, %v", good.ID, m, err)
	}
}

// TestEncryptedInPlace is the other way to do it.
func TestEncryptedInPlace(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes several passes; -short was given")
	}
	w := newPointsWorld(t)
	shell(t, w.from, letters+`mkdir docs; for i in $(seq 400); do letters $i 5000 > docs/$i; done`)
	w.point()
	for i := range 5 {
		shell(t, w.from, letters+fmt.Sprintf(`for i in $(seq 20); do letters $((i*%d)) 4000 > docs/$i; done`, i+2))
		if p := w.point(); len(p.Manifest.Anomalies) > 0 {
			t.Fatalf("ordinary work: %+v", p.Manifest.Anomalies)
		}
	}
	encrypt(t, w.from, false)
	bad := w.point()
	if got := kindsOf(bad); !slices.Equal(got, []string{"files", "bytes", "content"}) {
		t.Errorf("after encryption in place: %v, %+v", got, bad.Manifest.Filesystems[0].Changes)
	}
}

// TestPointsDiffer compares points by their catalogs alone: their disks are not there.
func TestPointsDiffer(t *testing.T) {
	w := newPointsWorld(t)
	shell(t, w.from, `mkdir a; seq 1000 > a/same; seq 2000 > a/changed; seq 3000 > gone; : > mode; mkdir dir; seq 10 > dir/inner`)
	from := w.point()
	shell(t, w.from, `seq 4000 > a/changed; rm gone; chmod 600 mode; rm -r dir; printf x > "$(printf 'new\n\377')"`)
	to := w.point()
	e := &config.Estate{Target: config.Target{Store: w.dir}, Servers: []config.Server{{Name: "web1"}}}
	res, err := DiffPoints(t.Context(), Options{Estate: e}, from.ID, NewestPoint)
	if err != nil || len(res.Servers) != 1 || res.Servers[0].To != to.ID || res.Servers[0].Outcome != dr.Done {
		t.Fatalf("%+v, %v", res, err)
	}
	var got []string
	for _, c := range res.Servers[0].Changes {
		got = append(got, fmt.Sprintf("%s %s %d %d", c.Kind, c.Path, c.Before, c.After))
	}
	want := []string{"changed /a/changed 8893 18893", "removed /gone 13893 0", `removed /dir/inner 21 0`, `added /new\x0a\xff 0 1`,
		"removed /dir 0 0", "attributes /mode 0 0"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	f := res.Servers[0].Filesystems[0]
	if f.Changed != 1 || f.Removed != 3 || f.Added != 1 || f.Attributes != 1 || f.RemovedBytes != 13914 || f.ChangedBytes != 8893 {
		t.Errorf("sums %+v", f)
	}
	// The quick count is the same.
	sum, err := tree.CountCatalogChanges(t.Context(), filepath.Join(from.StateDir(), catalogFile("/")), filepath.Join(to.StateDir(), catalogFile("/")))
	if err != nil || sum != f.CatalogChanges {
		t.Errorf("counted %+v, %v; listed %+v", sum, err, f.CatalogChanges)
	}
	if _, err := DiffPoints(t.Context(), Options{Estate: e}, from.ID, "20200101T000000.000Z"); err == nil || !strings.Contains(err.Error(), "no server has both") {
		t.Errorf("with a point that is not there: %v", err)
	}
}
