package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// TestOnePoolForAll lets several callers make one pool at once.
func TestOnePoolForAll(t *testing.T) {
	needRoot(t)
	ctx, dir := context.Background(), t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := EnsurePool(ctx, dir, PoolOptions{Size: smallestPool}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	loops := 0
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), dir) {
			loops++
		}
	}
	if loops != 1 {
		t.Errorf("%d loop devices for one pool", loops)
	}
	// Mounted a second time, as after an unmount in this namespace only.
	at := filepath.Join(dir, poolMount)
	other := t.TempDir()
	if err := unix.Mount(at, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := EnsurePool(ctx, dir, PoolOptions{}); err != nil {
		t.Fatal(err)
	}
	a, err := mountAt(at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := mountAt(other)
	if err != nil {
		t.Fatal(err)
	}
	if a.source != b.source {
		t.Errorf("the pool is on %s and on %s", a.source, b.source)
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
	if err := ReleasePool(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, dir); err == nil || !strings.Contains(err.Error(), "not mounted") {
		t.Errorf("opened a store without its pool: %v", err)
	}
}

// TestStoreOnSharingFilesystem needs no pool.
func TestStoreOnSharingFilesystem(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(newStore(t).Dir(), "inner")
	if err := EnsurePool(context.Background(), dir, PoolOptions{}); err != nil {
		t.Fatal(err)
	}
	if there, _ := exists(filepath.Join(dir, poolFile)); there {
		t.Error("a pool was made where none is needed")
	}
	s, err := Open(context.Background(), dir)
	if err != nil || s.Dir() != dir {
		t.Fatalf("open: %v, %v", s, err)
	}
}

func TestPoolTooSmallOrTooLarge(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{mebibyte, 1 << 60} {
		_, err := poolSize(dir, size)
		var hint *dr.Hinted
		if err == nil || !errors.As(err, &hint) {
			t.Errorf("a pool of %d bytes: %v, want a refusal with advice", size, err)
		}
	}
}

func TestNamesStayInside(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	for _, name := range []string{"", "..", "a/b", "../x", "UPPER", "a\x00"} {
		if _, err := s.Replica(dr.ServerName(name)); err == nil {
			t.Errorf("replica %q was made", name)
		}
		if _, err := s.Scratch(name); err == nil {
			t.Errorf("scratch directory %q was made", name)
		}
	}
}

func TestTwoLeewards(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	a, b := newReplica(t, s, "web1"), newReplica(t, s, "web1")
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Prepare(context.Background(), mustPlan(t, extFacts()))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process "+itoa(os.Getpid())+" on "+host) {
		t.Errorf("got %v, want a refusal that names this process", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(); err != nil {
		t.Errorf("after the other closed: %v", err)
	}
}

// TestFullStore writes until Reserve says stop. The filesystem on the replica has
// then not seen one error, and a point can be made.
func TestFullStore(t *testing.T) {
	needRoot(t)
	s := newStoreOf(t, smallestPool)
	r := newReplica(t, s, "web1")
	facts := &agentpb.Facts{Filesystems: []*agentpb.Filesystem{factsOf(t, "/", sourceImage(t, 512, "mke2fs", "-q", "-F", "-t", "ext4"))}}
	facts.Filesystems[0].UsedBytes = 1 << 40
	l := mustPlan(t, facts)
	if f, err := s.Forecast(l); err != nil || f.Fits() {
		t.Errorf("a terabyte fits: %+v, %v", f, err)
	}
	mustPrepare(t, r, l)
	m := mustMount(t, r)
	block := make([]byte, 4*mebibyte)
	for i := range block {
		block[i] = byte(i>>8) ^ byte(i)*7
	}
	f, err := os.Create(filepath.Join(m.Root("/"), "big"))
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for ; written < 1000; written += 4 {
		if err = m.Reserve(int64(len(block))); err != nil {
			break
		}
		if _, err := f.Write(block); err != nil {
			t.Fatalf("after %d MiB: %v", written, err)
		}
	}
	if !errors.Is(err, ErrSpace) || written < 150 {
		t.Fatalf("stopped after %d MiB with %v", written, err)
	}
	t.Logf("stopped after %d MiB: %v", written, err)
	if err := errors.Join(f.Sync(), f.Close(), m.Sync()); err != nil {
		t.Errorf("flush: %v", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // the kernel discards by and by
		free, err := s.Free()
		if err == nil && free > 150*mebibyte {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d MiB are free after the file was removed, %v: the image does not shrink", free/mebibyte, err)
		}
	}
	if err := m.Reserve(mebibyte); err != nil {
		t.Error(err)
	}
}

// TestWaitsForMountsOfAKilledProcess attaches the disk as the mounts of a process
// do that was killed a moment ago: the lock is free, and must not be had yet.
func TestWaitsForMountsOfAKilledProcess(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	l := mustPlan(t, extFacts())
	mustPrepare(t, r, l)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := os.OpenFile(r.Disk(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := attachLoop(image, loopOptions{offset: l.Find("/").Offset, size: l.Find("/").Size})
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Close(); err != nil {
		t.Fatal(err)
	}
	if err := waitLoopGone(r.Disk(), 0); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), d.path) {
		t.Errorf("got %v, want a refusal that names %s", err, d.path)
	}
	var gone atomic.Bool
	time.AfterFunc(200*time.Millisecond, func() {
		gone.Store(true)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Lock(); err != nil {
		t.Fatal(err)
	}
	if !gone.Load() {
		t.Error("locked while the disk was attached")
	}
}

// TestWrongFilesystemIsNotWritten puts another filesystem where the replica's
// was.
func TestWrongFilesystemIsNotWritten(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	l := mustPlan(t, extFacts())
	mustPrepare(t, r, l)
	root := l.Find("/")
	witness(t, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "offset="+strconv.FormatInt(root.Offset, 10), r.Disk(), "64m")
	m, err := r.Mount(context.Background())
	if err == nil {
		t.Cleanup(func() { m.Close() })
		t.Fatal("mounted a filesystem that is not the replica's")
	}
	if !strings.Contains(err.Error(), "want ext4 with UUID "+root.UUID) {
		t.Errorf("got %v, want both UUIDs named", err)
	}
}
