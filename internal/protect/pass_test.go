package protect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/mountns"
	"github.com/leeward-dr/leeward/internal/pipe"
	"github.com/leeward-dr/leeward/internal/tree"
)

// TestMain gives the tests a mount namespace of their own.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := mountns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

type noLimits struct{}

func (noLimits) Disk(context.Context, int) error { return nil }
func (noLimits) CPU(context.Context) error       { return nil }

// mounted returns a new ext4 of so many MiB.
func mounted(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	script := fmt.Sprintf("truncate -s %dM %[2]s && mkfs.ext4 -q -m 0 %[2]s && mount -o loop %[2]s %[3]s", mib, image, dir)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("no ext4 on a loop device here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newPass describes a pass from one filesystem to another.
func newPass(t *testing.T, from, to string) *tree.Pass {
	t.Helper()
	service := tree.NewService(noLimits{}, t.TempDir())
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	client, server := pipe.New(ar, bw, pipe.Options{Dialer: true}), pipe.New(br, aw, pipe.Options{Handlers: service.Handlers()})
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(context.Background()) })
	wg.Go(func() { server.Run(context.Background()) })
	root, err := tree.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	sources := tree.NewSources()
	t.Cleanup(func() {
		client.Close()
		server.Close()
		wg.Wait()
		service.Close()
		sources.Remove("test")
		unix.Close(root)
	})
	var reply agentpb.OpenReply
	open := &agentpb.OpenRequest{Filesystems: []*agentpb.OpenFilesystem{{MountPoint: from, Excludes: []string{"/lost+found"}}}}
	if err := client.Call(t.Context(), "tree.open", open, &reply); err != nil || reply.Filesystems[0].Error != "" {
		t.Fatal(err, &reply)
	}
	index := chunk.NewIndex()
	if err := index.Attach("test", filepath.Join(t.TempDir(), "index")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { index.Close() })
	return &tree.Pass{Conns: []*pipe.Conn{client}, Filesystem: from, Root: root, Index: index, Tree: "test", Sources: sources, Progress: &tree.Progress{}}
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// What a pass has replaced fills the replica until the pass ends: it then has room.
func TestFullOfReplacedContent(t *testing.T) {
	from, to := mounted(t, 64), mounted(t, 64)
	p, catalog := &serverPass{}, filepath.Join(t.TempDir(), "catalog.db")
	shell(t, from, "mkdir a; head -c 35000000 /dev/urandom > a/f")
	pass := newPass(t, from, to)
	if _, _, err := p.passTwice(t.Context(), pass, catalog); err != nil {
		t.Fatal(err)
	}
	shell(t, from, "rm -r a; mkdir b; head -c 36000000 /dev/urandom > b/g")
	if _, _, err := p.passTwice(t.Context(), pass, catalog); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.meter.now.Note, "full of replaced content") {
		t.Errorf("it fitted at once: note %q", p.meter.now.Note)
	}
	shell(t, from, "rmdir lost+found "+to+"/lost+found; diff -r . "+to)
}

func TestDamagedCatalogIsSetAside(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, string){"structure": damageStructure, "page": damagePage} {
		t.Run(name, func(t *testing.T) {
			from, to := mounted(t, 64), mounted(t, 64)
			p, catalog := &serverPass{}, filepath.Join(t.TempDir(), "catalog.db")
			shell(t, from, "for i in $(seq 50); do mkdir d$i; seq $i > d$i/f; done")
			pass := newPass(t, from, to)
			if _, _, err := p.passTwice(t.Context(), pass, catalog); err != nil {
				t.Fatal(err)
			}
			damage(t, catalog)
			shell(t, from, "for i in $(seq 50); do echo more >> d$i/f; done; rm -r d7")
			if _, _, err := p.passTwice(t.Context(), pass, catalog); err != nil {
				t.Fatal(err)
			}
			if len(p.result.Warnings) != 1 || !strings.Contains(p.result.Warnings[0], "damaged") {
				t.Errorf("warnings %q", p.result.Warnings)
			}
			if _, err := os.Stat(catalog + ".damaged"); err != nil {
				t.Error(err)
			}
			shell(t, from, "rmdir lost+found "+to+"/lost+found; diff -r . "+to)
		})
	}
}

// damageStructure leaves only what bbolt checks when it opens a file.
func damageStructure(t *testing.T, catalog string) {
	b, err := os.ReadFile(catalog)
	if err != nil {
		t.Fatal(err)
	}
	for i := 2 * 4096; i < len(b); i++ {
		b[i] ^= 0x5a
	}
	if err := os.WriteFile(catalog, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// damagePage spoils what the catalog says of some directories.
func damagePage(t *testing.T, catalog string) {
	db, err := bbolt.Open(catalog, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		pages := tx.Bucket([]byte("pages"))
		spoiled := map[string][]byte{}
		err := pages.ForEach(func(k, v []byte) error {
			if len(spoiled) < 20 {
				spoiled[string(k)] = append(bytes.Clone(v[:9]), 0xff, 0xff)
			}
			return nil
		})
		for k, v := range spoiled {
			if err == nil {
				err = pages.Put([]byte(k), v)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
