package tree

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// hook is a Governor that calls f before each directory or file.
type hook struct {
	noLimits
	f func()
}

func (h hook) CPU(context.Context) error {
	h.f()
	return nil
}

// waitGone waits until what is at path is not of the kind any more.
func waitGone(t *testing.T, path string, kind uint32) {
	time.Sleep(100 * time.Millisecond) // it may have to come first
	for range 2000 {
		time.Sleep(time.Millisecond)
		if st, err := os.Lstat(path); err != nil || kindOf(st.Sys().(*syscall.Stat_t).Mode) != kind {
			return
		}
	}
	t.Errorf("%s is still there", path)
}

// What a scan still tells of a directory that vanished meanwhile must not make it
// again: nothing would ever remove it.
func TestVanishedDirectoryStaysGone(t *testing.T) {
	for _, becomes := range []uint32{0, unix.S_IFLNK | 0o777, unix.S_IFREG | 0o600} {
		w := newWorld(t)
		const dir, file = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644
		entries := map[string]*agentpb.Meta{}
		if becomes != 0 {
			entries["d"] = &agentpb.Meta{Mode: becomes, Target: []byte("../outside"), CtimeSec: 9, Inode: 10, Links: 1}
		}
		l := &liar{copy: answer(entries), scan: []*agentpb.ScanReply{
			{Directories: []*agentpb.Directory{dirOf("", pageOf(dir, "d"))}},
			{Directories: []*agentpb.Directory{dirOf("d", pageOf(dir, "sub")), dirOf("d/sub", pageOf(file, "f"))}},
			{Summary: &agentpb.ScanSummary{}}}}
		l.between = func(i int) {
			if i == 1 {
				waitGone(t, w.dst+"/d", unix.S_IFDIR)
			}
		}
		res, err := w.lie(l)
		if err != nil || len(res.Problems) > 0 {
			t.Errorf("%o: %v, %v", becomes, err, res)
		}
		st, err := os.Lstat(w.dst + "/d")
		if becomes == 0 && err == nil || becomes != 0 && (err != nil || st.IsDir()) {
			t.Errorf("%o: the replica has %v, %v", becomes, st, err)
		}
	}
}

// TestMovedAwayAndBack moves a directory away while it is being carried, and back
// after: the files in it look unchanged then.
func TestMovedAwayAndBack(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir -p a/d; echo one > a/f; echo two > a/d/g`)
	w.sync()
	w.sh(`chmod 700 a`)
	var once sync.Once
	w.copyGov = hook{f: func() { once.Do(func() { os.Rename(w.src+"/a", w.src+"/../away") }) }}
	w.sync()
	w.sh(`mv ../away a`)
	w.copyGov = noLimits{}
	w.sync()
	w.equal()
}

// TestKilledAfterRemoval leaves things as a killed pass does: a directory is put
// aside and the catalog still has it.
func TestKilledAfterRemoval(t *testing.T) {
	for _, between := range []bool{false, true} {
		w := newWorld(t)
		w.sh(`mkdir -p p/a/d; echo one > p/a/f; echo two > p/a/d/g; echo three > p/h`)
		w.sync()
		if err := os.Mkdir(w.dst+"/"+stage, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(w.dst+"/p/a", w.dst+"/"+stage+"/1"); err != nil {
			t.Fatal(err)
		}
		w.sh(`mv p/a p/b`)
		if between {
			w.sync()
			w.equal()
		}
		w.sh(`mv p/b p/a`)
		w.sync()
		w.equal()
	}
}

// TestReplicaLostDirectory removes a directory behind Leeward's back, of which only
// something deep inside changes.
func TestTopmost(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a/b a a/b/c a a-b", "a a-b"}, {"x/y x/z", "x/y x/z"}, {"a/b/c a/b/c", "a/b/c"},
	} {
		if got := strings.Join(topmost(strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("of %s: %s, want %s", c.in, got, c.want)
		}
	}
	if got := topmost([]string{"a", "", "b/c"}); len(got) != 1 || got[0] != "" {
		t.Errorf("below the root: %q", got)
	}
}

func TestReplicaLostDirectory(t *testing.T) {
	w := newWorld(t)
	w.sh(`mkdir -p a/b/c; echo one > a/b/c/f; echo two > a/g; echo three > a/b/h; chmod 711 a a/b`)
	w.sync()
	os.RemoveAll(w.dst + "/a")
	w.sh(`echo four > a/b/c/f`)
	w.sync()
	w.equal()
}

// TestFirstNamesVanish has the names of an inode vanish one after the other, some
// before the next is scanned: the last must come over all the same.
func TestFirstNamesVanish(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t)
		names := func(n ...string) *agentpb.Page {
			p := pageOf(unix.S_IFREG|0o644, n...)
			for i := range p.Links {
				p.Links[i], p.Inode[i] = 3, 0
			}
			p.Inode[0] = 10
			if n[0] == "d" {
				p.Mode[0], p.Links[0] = unix.S_IFDIR|0o755, 0
			}
			return p
		}
		m := &agentpb.Meta{Mode: unix.S_IFREG | 0o644, CtimeSec: 1, Inode: 10, Links: 1}
		l := &liar{copy: answer(map[string]*agentpb.Meta{"d/l3": m, "d": {Mode: unix.S_IFDIR | 0o755, CtimeSec: 1}})}
		if late {
			os.WriteFile(w.dst+"/l1", nil, 0o600) // shows when it is found to have vanished
			l.scan = []*agentpb.ScanReply{{Directories: []*agentpb.Directory{dirOf("", names("d", "l1"))}},
				{Directories: []*agentpb.Directory{dirOf("d", names("l3"))}}, {Summary: &agentpb.ScanSummary{}}}
			l.between = func(i int) {
				if i == 1 {
					waitGone(t, w.dst+"/l1", unix.S_IFREG)
					time.Sleep(50 * time.Millisecond)
				}
			}
		} else {
			l.scan = scanOf(dirOf("", names("d", "l1", "l2")), dirOf("d", names("l3")))
		}
		if res, err := w.lie(l); err != nil || len(res.Problems) > 0 {
			t.Fatalf("late %v: %v, %v", late, err, res)
		}
		if _, err := os.Lstat(w.dst + "/d/l3"); err != nil {
			t.Errorf("late %v: %v", late, err)
		}
	}
}

// diskHook is a Governor that calls f before each reading of content.
type diskHook struct {
	noLimits
	f func()
}

func (h diskHook) Disk(context.Context, int) error {
	h.f()
	return nil
}

// A change in the same tick of the clock as the one before cannot be told from it:
// nothing may be read sooner.
func TestFreshFilesAreReadLater(t *testing.T) {
	w := newWorld(t)
	w.sh(`echo x > f`)
	w.copyGov = diskHook{f: func() {
		var st unix.Stat_t
		if err := unix.Stat(w.src+"/f", &st); err != nil {
			t.Error(err)
		}
		if age := time.Since(time.Unix(st.Ctim.Unix())); age < tick {
			t.Errorf("read %v after it was changed", age)
		}
	}}
	os.Chmod(w.src+"/f", 0o600)
	w.sync()
	w.equal()
}

// TestChangesDuringAPass changes the source while passes run; a quiet pass then
// makes both equal.
func TestChangesDuringAPass(t *testing.T) {
	w := newWorld(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &mutator{r: rand.New(rand.NewPCG(seed, 2)), root: w.src}
	for range 100 {
		m.step()
	}
	for round := range 8 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					m.step()
				}
			}
		})
		res, err := w.pass(context.Background())
		close(stop)
		wg.Wait()
		if err != nil || len(res.Problems) > 0 {
			t.Fatalf("round %d, seed %d: %v, %v", round, seed, err, res.Problems)
		}
		w.sync()
		w.equal()
		if t.Failed() {
			t.Fatalf("differs after round %d, seed %d", round, seed)
		}
	}
}
