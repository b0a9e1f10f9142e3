package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// needLab skips a test where no lab can be raised, and keeps its cache from
// one run to the next, as building servers takes minutes.
func needLab(t *testing.T) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("raising the lab needs root")
	}
	for _, tool := range []string{"mmdebstrap", "ip", "tc", "nsenter", "losetup", "mkfs.xfs", "mkfs.btrfs", "sfdisk", "grub-mkimage", "ssh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("raising the lab needs %s", tool)
		}
	}
	if names, err := netnsNames(t.Context()); err != nil || len(names) > 0 {
		t.Skipf("a lab is up on this machine: %v %v", names, err)
	}
	cache := os.Getenv("LEEWARD_LAB_CACHE")
	if cache == "" {
		cache = DefaultCache
	}
	return Options{Dir: filepath.Join(t.TempDir(), "lab"), Cache: cache, Log: t.Logf}
}

func raiseLab(t *testing.T, o Options) *Lab {
	t.Helper()
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return l
}

// inDallas runs a command at the target site.
func inDallas(t *testing.T, argv ...string) string {
	t.Helper()
	args := InDallas(argv...)
	out, err := run(t.Context(), args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLightLab raises the whole lab light and looks at it from both sites.
func TestLightLab(t *testing.T) {
	o := needLab(t)
	o.Data = map[string]int64{"web1": 1 << 30}
	l := raiseLab(t, o)

	for _, s := range Servers() {
		out := inDallas(t, "ssh", "-F", l.SSHConfig(), s.Name, "--", "cat", "/etc/hostname")
		if !strings.HasSuffix(strings.TrimSpace(out), s.Name) {
			t.Errorf("ssh to %s reached %q", s.Name, out)
		}
		if out, err := l.Run(t.Context(), s.Name, "ip", "route", "show", "default"); err != nil || out != "" {
			t.Errorf("%s has a default route: %q, %v", s.Name, out, err)
		}
		v, err := l.Server(s.Name)
		if err != nil || !v.Up || v.Form != Light {
			t.Errorf("server %s: %+v, %v", s.Name, v, err)
		}
		release, err := os.ReadFile(filepath.Join(v.Root, "etc/os-release"))
		if err != nil || !strings.Contains(string(release), s.Suite) {
			t.Errorf("%s from outside: %v, not a tree of %s", v.Root, err, s.Suite)
		}
	}
	if out := inDallas(t, "ip", "route", "show", "default"); out != "" {
		t.Errorf("Dallas has a default route: %q", out)
	}
	t.Run("services", func(t *testing.T) { testServices(t, l) })
	t.Run("variety", func(t *testing.T) { testFiles(t, l) })
	t.Run("data", func(t *testing.T) {
		if out, err := l.Run(t.Context(), "web1", "stat", "-fc", "%T", "/data"); err != nil || strings.TrimSpace(out) != "ext2/ext3" {
			t.Errorf("/data is %q, %v", out, err)
		}
	})
	t.Run("clones", testClones)
	t.Run("writers", func(t *testing.T) { testWriters(t, l) })
	t.Run("second", func(t *testing.T) {
		o.Dir = filepath.Join(t.TempDir(), "other")
		if _, err := Up(t.Context(), o); !errors.Is(err, ErrUp) {
			t.Errorf("a second lab: %v, want ErrUp", err)
		}
	})
}

func testServices(t *testing.T, l *Lab) {
	for _, c := range []struct{ url, want string }{
		{"http://10.10.0.11/pages/7.html", "Page 7"},
		{"http://10.10.0.12:8080/health", `"ok": true`},
	} {
		if got := inDallas(t, "curl", "-sS", "--max-time", "20", c.url); !strings.Contains(got, c.want) {
			t.Errorf("%s says %q, want %q in it", c.url, got, c.want)
		}
	}
	for _, c := range []struct{ server, command, want string }{
		{"db1", "runuser -u postgres -- psql -Atc 'SELECT count(*) >= 20000 FROM orders' shop", "t"},
		{"db2", "mariadb -Ne 'SELECT count(*) >= 10000 FROM plant.readings'", "1"},
		{"mail1", "find /home/clerk*/Maildir/cur -type f | wc -l", "20000"},
		{"dns1", "pidof -s dnsmasq > /dev/null && echo yes", "yes"},
	} {
		out, err := l.Run(t.Context(), c.server, "sh", "-c", c.command)
		if err != nil || strings.TrimSpace(out) != c.want {
			t.Errorf("%s: %s says %q, %v; want %s", c.server, c.command, out, err, c.want)
		}
	}
}

// The target site holds stale clones of both databases.
func testClones(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"env", "PGPASSWORD=" + databasePassword, "psql", "-h", "127.0.0.1", "-U", "leeward", "-Atc", "SELECT count(*) FROM orders", "shop"}, "17949"},
		{[]string{"mariadb", "--no-defaults", "-h", "127.0.0.1", "-u", "leeward", "-p" + databasePassword, "-Ne", "SELECT count(*) FROM readings", "plant"}, "8949"},
	} {
		if got := strings.TrimSpace(inDallas(t, c.argv...)); got != c.want {
			t.Errorf("%v says %q, want %s", c.argv, got, c.want)
		}
	}
}

// testFiles holds files1 and the others to the cases that copies are tested with.
func testFiles(t *testing.T, l *Lab) {
	for _, c := range []struct{ server, command, want string }{
		{"files1", "stat -c %s /srv/share/large/sparse.img", "10737418240"},
		{"files1", "getcap /home/share/attributes/cap", "/home/share/attributes/cap cap_net_bind_service,cap_net_raw=ep"},
		{"files1", "lsattr -d /home/share/flags/fixed-dir /srv/share/flags/fixed-dir | grep -c -- '----i'", "2"},
		{"files1", "lsattr -pd /srv/share/project | tr -s ' ' | cut -d' ' -f2", "4711"},
		{"files1", "getfattr --only-values -n trusted.audit /srv/share/attributes/xattr", "level3"},
		{"files1", "getfacl -c /home/share/attributes/acl/file 2>/dev/null | grep -c 4002", "0"}, // by name, not number
		{"files1", "find /srv/share/names -name '*\n*' | grep -c names", "2"},
		{"files1", "stat -c %t:%T /home/share/nodes/whiteout", "0:0"},
		{"db1", "findmnt -nrt ext4,xfs -o TARGET,FSTYPE | sort | paste -sd' '", "/ ext4 /boot ext4 /var xfs"},
		{"db2", "findmnt -nrt btrfs -o FSROOT | sort | paste -sd' '", "/@ /@home"},
		{"db2", "findmnt -no OPTIONS /tmp | grep -c noexec", "1"},
		{"mail1", "grep -c '^/dev/sda2 / ' /etc/fstab", "1"},
		{"app1", "getent passwd root | cut -d: -f7", "/bin/tcsh"},
	} {
		out, err := l.Run(t.Context(), c.server, "sh", "-c", c.command)
		if strings.TrimSpace(out) != c.want {
			t.Errorf("%s: %s says %q, %v; want %s", c.server, c.command, out, err, c.want)
		}
	}
}

// testWriters sees every server change, and stand still once it is told to.
func testWriters(t *testing.T, l *Lab) {
	state := func() map[string]string {
		sums := map[string]string{}
		for _, s := range Servers() {
			out, err := l.Run(t.Context(), s.Name, "sh", "-c",
				"find /var/lib/churn /var/log/churn.log /var/log/orders.log -printf '%p %T@ %s\\n' 2>/dev/null | sort | sha256sum")
			if err != nil {
				t.Fatal(err)
			}
			sums[s.Name] = out
		}
		return sums
	}
	first := state()
	var second map[string]string
	err := waitFor(t.Context(), 30*time.Second, "all servers to change", func() bool {
		second = state()
		for name := range first {
			if first[name] == second[name] {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StopWriters(t.Context()); err != nil {
		t.Fatal(err)
	}
	still := state()
	time.Sleep(2 * time.Second) // several rounds of a writer
	for name, sum := range state() {
		if sum != still[name] {
			t.Errorf("%s still changes", name)
		}
	}
}

// TestLink measures the shaped link, cuts it and heals it.
func TestLink(t *testing.T) {
	o := needLab(t)
	o.Servers, o.Rate, o.Quiet = []string{"web1"}, "80mbit", true
	l := raiseLab(t, o)

	before, _, err := l.LinkBytes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	inDallas(t, "curl", "-sS", "-o", "/dev/null", "http://10.10.0.11/brochure.bin") // 20 MB
	took := time.Since(begin)
	after, _, err := l.LinkBytes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := after - before; n < 20e6 || n > 23e6 {
		t.Errorf("the link counted %d bytes for a file of 20000000", n)
	}
	if took < 1500*time.Millisecond {
		t.Errorf("20 MB crossed a link of 80 Mbit/s in %v", took)
	}
	ping := func() error {
		args := InDallas("curl", "-sS", "-o", "/dev/null", "--max-time", "3", "http://10.10.0.11/")
		_, err := run(t.Context(), args[0], args[1:]...)
		return err
	}
	if err := l.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err == nil {
		t.Error("the cut link carries traffic")
	}
	if st, err := l.Status(t.Context()); err != nil || st.Link != "cut" {
		t.Errorf("status of the cut link: %q, %v", st.Link, err)
	}
	if err := l.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err != nil {
		t.Errorf("the healed link: %v", err)
	}
}

// TestDownAfterCrash kills an `up` at several moments and expects Remove to
// leave nothing behind.
func TestDownAfterCrash(t *testing.T) {
	if dir := os.Getenv("LEEWARD_LAB_CRASH"); dir != "" {
		// The process to be killed: it raises the lab and then waits.
		o := Options{Dir: dir, Cache: os.Getenv("LEEWARD_LAB_CRASH_CACHE"), Servers: []string{"web1", "db2"}}
		if _, err := Up(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	o := needLab(t)
	o.Servers = []string{"web1", "db2"}
	if err := raiseLab(t, o).Down(t.Context()); err != nil { // fills the cache
		t.Fatal(err)
	}
	for _, after := range []time.Duration{50, 150, 400, 800, 1500, 4000} {
		dir := filepath.Join(t.TempDir(), "lab")
		cmd := exec.Command(os.Args[0], "-test.run=^TestDownAfterCrash$")
		cmd.Env = append(os.Environ(), "LEEWARD_LAB_CRASH="+dir, "LEEWARD_LAB_CRASH_CACHE="+o.Cache)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if err := Remove(t.Context(), dir); err != nil {
			t.Errorf("down %v ms after up began: %v", int(after), err)
		}
		for _, left := range remains(t, dir) {
			t.Errorf("down %v ms after up began left %s", int(after), left)
		}
	}
}

// remains lists what is left of a lab in dir.
func remains(t *testing.T, dir string) []string {
	t.Helper()
	names, err := netnsNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, n := range names {
		left = append(left, "namespace "+n)
	}
	if _, err := os.Lstat(dir); err == nil {
		left = append(left, "directory "+dir)
	}
	// The kernel lets go of a loop device a moment after its last mount.
	var loops string
	err = waitFor(t.Context(), 10*time.Second, "loop devices to go", func() bool {
		loops, err = run(t.Context(), "losetup", "--list", "--noheadings", "--output", "BACK-FILE")
		return err != nil || !strings.Contains(loops, dir)
	})
	if err != nil {
		left = append(left, "loop devices: "+loops)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), dir) {
			left = append(left, fmt.Sprintf("process %s: %q", p, b))
		}
	}
	return left
}

// TestGuest boots one server as a real guest.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("booting a guest takes a minute")
	}
	o := needLab(t)
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("running a guest needs qemu-system-x86_64")
	}
	o.Servers, o.Guests = []string{"web1"}, []string{"web1"}
	l := raiseLab(t, o)
	out, err := l.Run(t.Context(), "web1", "systemctl", "is-system-running")
	if err != nil || strings.TrimSpace(out) != "running" {
		failed, _ := l.Run(t.Context(), "web1", "systemctl", "--failed", "--no-legend") // only to explain
		t.Errorf("the guest is %q, %v: %s", out, err, failed)
	}
	if got := inDallas(t, "curl", "-sS", "--max-time", "30", "http://10.10.0.11/pages/7.html"); !strings.Contains(got, "Page 7") {
		t.Errorf("the guest's web server says %q", got)
	}
	if err := l.StopWriters(t.Context()); err != nil {
		t.Error(err)
	}
}
