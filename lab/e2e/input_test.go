package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// says insists on an exit code and that the result names object and remedy.
func (r ran) says(t *testing.T, code int, want ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	text := string(r.out) + r.err
	for _, s := range want {
		if !strings.Contains(text, s) {
			t.Errorf("it does not say %q", s)
		}
	}
	if t.Failed() {
		t.Log(r)
	}
}

// unharmed runs f and insists that the newest recovery point of a server, if it
// had one, is still there, and all that there are stand.
func (w *world) unharmed(t *testing.T, store, server string, f func()) {
	t.Helper()
	before := w.points(t, store, server)
	f()
	after := w.points(t, store, server)
	if len(before) == 0 {
		return
	}
	for _, p := range after {
		if p.ID == before[0].ID && p.Manifest.Digest == before[0].Manifest.Digest {
			return
		}
	}
	t.Errorf("recovery point %s of %s is gone", before[0].ID, server)
}

func TestBadConfiguration(t *testing.T) {
	w := need(t)
	for _, c := range []struct {
		name string
		o    []option
		want []string
	}{
		{"unknown key", []option{only("{name: web1, host: web1, exlude: [/tmp/**]}")}, []string{"leeward.yaml", "exlude", "did you mean", "exclude"}},
		{"wrong unit", []option{only("{name: web1, host: web1, limits: {bandwidth: 200 mbps}}")}, []string{"bandwidth", "mbps", "Mbit/s"}},
		{"no unit", []option{only("{name: web1, host: web1, limits: {bandwidth: 200}}")}, []string{"bandwidth", "unit"}},
		{"two of one name", []option{only(line("web1"), "{name: web1, host: db1}")}, []string{"server web1", "taken"}},
		{"two of one host", []option{only(line("web1"), "{name: web2, host: web1}")}, []string{"web2", "web1 already"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.unharmed(t, w.store(), "web1", func() {
				w.run(t, w.estate(t, c.o...), "replicate").says(t, 2, c.want...)
			})
		})
	}
}

// TestOutOfReach has servers that cannot be reached, or not as they should be.
func TestOutOfReach(t *testing.T) {
	w := need(t)
	t.Run("host key changed", func(t *testing.T) {
		dir := t.TempDir()
		command(t, dir, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "other")
		pub, err := os.ReadFile(filepath.Join(dir, "other.pub"))
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, filepath.Join(dir, "known_hosts"), "web1,10.10.0.11 "+string(pub))
		config := strings.Replace(w.read(t, w.lab.SSHConfig()), filepath.Join(w.lab.Dir(), "known_hosts"), filepath.Join(dir, "known_hosts"), 1)
		w.write(t, filepath.Join(dir, "ssh_config"), config)
		e := w.estate(t, only(line("web1")), withSSH(filepath.Join(dir, "ssh_config")))
		w.unharmed(t, w.store(), "web1", func() {
			w.run(t, e, "replicate").says(t, 1, "web1", "the host key has changed", "ssh-keygen", "find out first")
		})
		w.must(t, w.estate(t), "replicate", "web1")
	})
	t.Run("sudo wants a password", func(t *testing.T) {
		w.in(t, "db2", "mv /etc/sudoers.d/ops /root/ops; echo 'ops ALL=(ALL) ALL' > /etc/sudoers.d/ops")
		w.unharmed(t, w.store(), "db2", func() {
			w.run(t, w.estate(t), "replicate", "db2").says(t, 1, "db2", "sudo asks for a password", "NOPASSWD")
		})
		w.in(t, "db2", "mv /root/ops /etc/sudoers.d/ops")
		w.must(t, w.estate(t), "replicate", "db2")
	})
	t.Run("clock skew", func(t *testing.T) {
		t.Skip("a light server has this machine's clock: no namespace has a wall clock of its own")
	})
}

// hostDown has one server that never answers. It keeps nobody else from a recovery
// point.
func hostDown(w *world, t *testing.T) {
	e := w.estate(t, only(line("files1"), "{name: ghost, host: 10.10.0.99}"))
	w.run(t, e, "plan").says(t, 3, "ghost", "cannot be reached", "is the host up")
	w.unharmed(t, w.store(), "files1", func() {
		r := w.run(t, e, "replicate")
		r.says(t, 3, "ghost", "cannot be reached", "is the host up")
		if s := r.servers(t)[0]; s.Outcome != dr.Done || s.Point == "" {
			t.Errorf("files1 did not get through: %+v", s)
		}
	})
}

// TestStores has stores that are made, are too small, run full, and are shared.
func TestStores(t *testing.T) {
	w := need(t)
	t.Run("pool is made", func(t *testing.T) {
		st, err := os.Stat(filepath.Join(w.store(), "pool.xfs"))
		if err != nil {
			t.Skipf("the store shares blocks without a pool: %v", err)
		}
		if kind := strings.TrimSpace(command(t, "", nil, "stat", "-fc", "%T", w.store()+"/pool")); kind != "xfs" || st.Size() < 1<<30 {
			t.Errorf("the pool of %d bytes is %s", st.Size(), kind)
		}
	})
	t.Run("too small", func(t *testing.T) {
		store := w.newStore(t)
		w.pool(t, store, 320<<20)
		w.run(t, w.estate(t, inStore(store)), "replicate", "web1").says(t, 1, "web1", "MiB free", "make room")
	})
	t.Run("runs full", func(t *testing.T) {
		store := w.newStore(t)
		w.pool(t, store, 1400<<20)
		e := w.estate(t, inStore(store), only(small("web1", "")))
		w.must(t, e, "replicate")
		w.in(t, "web1", "head -c 150000000 /dev/urandom > /var/lib/much")
		t.Cleanup(func() { w.in(t, "web1", "rm -f /var/lib/much") })
		filler := filepath.Join(store, "pool", "filler")
		free := number(t, command(t, "", nil, "sh", "-c", "df -B1 --output=avail "+filepath.Join(store, "pool")+" | tail -n 1"))
		command(t, "", nil, "fallocate", "-l", itoa(free-120<<20), filler)
		w.unharmed(t, store, "web1", func() {
			w.run(t, e, "replicate").says(t, 1, "web1", "out of space", "make room", "no recovery point is harmed")
		})
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		w.must(t, e, "replicate")
		w.settle(t, e, "web1")
	})
	t.Run("two at once", func(t *testing.T) {
		e := w.estate(t)
		w.in(t, "web1", "head -c 60000000 /dev/urandom > /var/lib/two")
		t.Cleanup(func() { w.in(t, "web1", "rm -f /var/lib/two") })
		w.slow(t, "100mbit")
		w.unharmed(t, w.store(), "web1", func() {
			first := w.start(t, e, "replicate", "web1")
			lock := filepath.Join(w.store(), "pool/servers/web1/lock")
			w.await(t, "the first to take the lock", func() bool {
				b, _ := os.ReadFile(lock)
				return len(b) > 0
			})
			w.await(t, "the first to mount the replica", func() bool { return len(leftovers(w.store())) > 0 })
			w.run(t, e, "replicate", "web1").says(t, 1, "web1", "in use by another leeward", "process", "wait for process")
			if r := first.wait(); r.code != 0 {
				t.Errorf("the first one: %s", r)
			}
		})
	})
}

// pool makes the pool of a store by a size of the test's own.
func (w *world) pool(t *testing.T, store string, size int64) {
	t.Helper()
	if err := replica.EnsurePool(t.Context(), store, replica.PoolOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(store, "pool.xfs")); err != nil {
		t.Skipf("the tests' directory shares blocks: a store there has no pool: %v", err)
	}
}

// settle stops a server's writers and insists that the next pass makes its replica
// equal.
func (w *world) settle(t *testing.T, config, server string) {
	t.Helper()
	w.quiet(t, server)
	w.must(t, config, "replicate", server)
	w.equal(t, config, server)
}

// slow shapes the link until the test ends.
func (w *world) slow(t *testing.T, to string) {
	t.Helper()
	if err := w.lab.SetRate(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.lab.SetRate(context.WithoutCancel(t.Context()), rate); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *world) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
