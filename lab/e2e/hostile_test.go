package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// crowd is where, and how many files are put into one directory.
func crowd() (dir string, n int) {
	if soak() {
		return "/data/crowd", 1_000_000
	}
	return "/var/lib/crowd", 100_000
}

// hostileTrees puts at a source what a file tree can have that is hard to copy.
func hostileTrees(w *world, t *testing.T) {
	dir, n := crowd()
	cases := []struct{ name, make, remove string }{
		{"names", `mkdir /var/lib/odd; cd /var/lib/odd
echo 1 > "$(printf 'line\nbreak')"; echo 2 > "$(printf 'latin-\351\377')"; echo 3 > "$(head -c 255 /dev/zero | tr '\0' n)"
mkdir "$(head -c 255 /dev/zero | tr '\0' '\377')"; echo 4 > "$(head -c 255 /dev/zero | tr '\0' '\377')/-rf"; echo 5 > "..."`, "rm -r /var/lib/odd"},
		{"deep path", `mkdir /var/lib/deep; cd /var/lib/deep
perl -e 'for (1..4000) { mkdir "d" and chdir "d" or die $! } open(F, ">", "bottom") or die $!; print F "deep"'`, "rm -r /var/lib/deep"},
		{"crowd", fmt.Sprintf(`mkdir %s; cd %s; perl -e 'for (1..%d) { open(F, ">", "f$_") or die $!; print F $_ }'`, dir, dir, n), "rm -r " + dir},
		{"immutable", `mkdir /var/lib/fixed; cd /var/lib/fixed; echo 1 > file; echo 2 > log; chattr +i file; chattr +a log; chattr +i .`,
			"chattr -i /var/lib/fixed; chattr -ia /var/lib/fixed/*; rm -r /var/lib/fixed"},
		{"sparse", `truncate -s 1T /var/lib/huge; printf data | dd of=/var/lib/huge bs=1M seek=700000 conv=notrunc status=none`, "rm /var/lib/huge"},
	}
	config := w.estate(t)
	w.quiet(t, "web1")
	for _, c := range cases {
		w.in(t, "web1", c.make)
		t.Cleanup(func() { w.in(t, "web1", c.remove) })
	}
	begin := time.Now()
	w.unharmed(t, w.store(), "web1", func() { w.must(t, config, "replicate", "web1") })
	t.Logf("the pass took %v", time.Since(begin).Round(time.Millisecond))
	again := w.must(t, config, "replicate", "web1")
	t.Logf("a pass with nothing to do took %v", again.took.Round(time.Millisecond))
	w.equal(t, config, "web1")
	m := w.clone(t, w.store(), w.points(t, w.store(), "web1")[0], true)
	lib := filepath.Join(m.Root("/"), "var/lib")
	in := func(script string) string { return strings.TrimSpace(command(t, lib, nil, "sh", "-ec", script)) }
	for _, c := range []struct{ name, script, want string }{
		{"names", `cat "odd/$(printf 'line\nbreak')" "odd/$(printf 'latin-\351\377')" odd/nnn* odd/*/-rf odd/... | tr -d '\n'`, "12345"},
		{"deep path", `cd deep; perl -e 'for (1..4000) { chdir "d" or die "$_: $!" } open(F, "bottom") or die $!; print <F>'`, "deep"},
		{"immutable", `lsattr -d fixed fixed/file fixed/log | cut -c5,6 | tr '\n' ' '`, "i- i- -a"},
		{"sparse", `stat -c %s huge; dd if=huge bs=1M skip=700000 count=1 status=none | head -c 4; [ $(stat -c %b huge) -lt 300 ]`, "1099511627776\ndata"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := in(c.script); got != c.want {
				t.Errorf("the copy says %q, want %q", got, c.want)
			}
		})
	}
	t.Run("crowd", func(t *testing.T) {
		at := m.Root("/")
		if soak() {
			at, dir = m.Root("/data"), "/crowd"
		}
		entries, err := os.ReadDir(filepath.Join(at, dir))
		if err != nil || len(entries) != n {
			t.Errorf("%d files, %v; want %d", len(entries), err, n)
		}
	})
}

// TestMovingTree has files come, grow and vanish while they are walked and read.
func TestMovingTree(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	w.in(t, "web1", "mkdir /var/lib/fleeting; "+background("fleeting", `perl -e 'chdir "/var/lib/fleeting" or die; my $n = 0;
while (1) { $n++; my $d = "d" . $n % 50; mkdir $d; open(F, ">", "$d/f$n"); print F "x" x ($n % 3000); close F;
open(G, ">>", "grows"); print G "y" x 5000; close G; if ($n % 2000 == 0) { truncate "grows", 100 }
unlink glob("d" . (($n + 25) % 50) . "/*"); rmdir "d" . (($n + 25) % 50); rename "$d/f$n", "moved" . $n % 20; select(undef, undef, undef, 0.0005) }'`))
	stop := func() { w.in(t, "web1", "kill -- -$(cat /run/fleeting.pid); rm /run/fleeting.pid") }
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
		w.in(t, "web1", "rm -r /var/lib/fleeting")
	})
	for range 3 {
		w.unharmed(t, w.store(), "web1", func() {
			r := w.must(t, config, "replicate", "web1")
			for _, f := range r.servers(t)[0].Fuzzy {
				if !strings.HasPrefix(f, "/var/lib/fleeting/") && !strings.HasPrefix(f, "/var/lib/churn/") {
					t.Errorf("%s is listed as having changed", f)
				}
			}
		})
	}
	stop()
	stopped = true
	w.settle(t, config, "web1")
}

// TestForeignFilesystem mounts at a source what Leeward does not carry. (Of types
// that it has never heard of, which the kernel here has none of, see the tests of
// what the agent finds out.)
func TestForeignFilesystem(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	w.in(t, "web1", "mkdir -p /mnt/odd; mount -t ramfs none /mnt/odd; echo lost > /mnt/odd/file")
	t.Cleanup(func() { w.in(t, "web1", "umount /mnt/odd; rmdir /mnt/odd") })
	w.unharmed(t, w.store(), "web1", func() {
		w.run(t, config, "plan", "web1").says(t, 0, `{"path":"/mnt/odd","reason":"in memory: empty after every start"}`)
		w.must(t, config, "replicate", "web1")
	})
	m := w.clone(t, w.store(), w.points(t, w.store(), "web1")[0], true)
	if entries, err := os.ReadDir(filepath.Join(m.Root("/"), "mnt/odd")); err != nil || len(entries) > 0 {
		t.Errorf("the copy has %v in /mnt/odd, %v", entries, err)
	}
}
