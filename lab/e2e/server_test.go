package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writers are the programs that change files, by server; churn runs on all.
var writers = map[string]string{"db1": "ticker", "db2": "meter"}

// quiet stops the writers of the named servers until the test ends.
func (w *world) quiet(t *testing.T, names ...string) {
	t.Helper()
	if err := w.lab.StopWriters(t.Context(), names...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range names {
			w.in(t, n, background("churn", "/usr/local/sbin/churn 0.5"))
			if p := writers[n]; p != "" {
				w.in(t, n, background(p, "/usr/local/sbin/"+p))
			}
		}
	})
}

// background starts a service the way a light server's first process does.
func background(name, command string) string {
	return fmt.Sprintf("setsid %s > /dev/null 2>&1 < /dev/null & echo $! > /run/%s.pid", command, name)
}

// view is one filesystem of a server, or one subvolume, as this machine sees it:
// mounted once more, by the device, so that nothing hides beneath the server's own
// mounts.
type view struct {
	mountPoint string // of the mount, at the server
	filesystem string // the mount point that names the whole filesystem
	fstype     string
	sub        string // the subvolume's path within the filesystem
	dir        string
}

// views mounts all filesystems of a server until the test ends.
func (w *world) views(t *testing.T, server string) []view {
	t.Helper()
	var out []view
	seen := map[string]view{}
	for l := range strings.Lines(w.in(t, server, "findmnt -nrvo SOURCE,TARGET,FSTYPE,FSROOT -t ext4,xfs,btrfs")) {
		f := strings.Fields(l)
		if len(f) != 4 {
			t.Fatalf("findmnt says %q", l)
		}
		v, ok := seen[f[0]]
		if !ok {
			options := "noatime"
			if f[2] == "btrfs" {
				options += ",subvolid=5"
			}
			v = view{filesystem: f[1], dir: w.mountDir(t, "-t", f[2], "-o", options, f[0])}
			seen[f[0]] = v
		}
		sub := strings.TrimPrefix(f[3], "/")
		out = append(out, view{f[1], v.filesystem, f[2], sub, filepath.Join(v.dir, sub)})
	}
	if len(out) == 0 {
		t.Fatalf("%s has no filesystems", server)
	}
	return out
}

// mountDir mounts on a directory of its own until the test ends. What removes
// directories whole never sees it.
func (w *world) mountDir(t *testing.T, args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp(w.dir, "mnt-")
	if err != nil {
		t.Fatal(err)
	}
	command(t, "", nil, "mount", append(args, dir)...)
	t.Cleanup(func() {
		command(t, "", nil, "umount", dir)
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// agents returns the numbers, within a server, of the processes that run the
// agent there.
func (w *world) agents(t *testing.T, server string) []string {
	t.Helper()
	return strings.Fields(w.in(t, server,
		`for p in /proc/[0-9]*; do case $(readlink $p/exe) in */leeward/leeward-*) echo ${p#/proc/};; esac; done`))
}

// leftovers lists the loop devices over disks in a store. Mounts need one each.
func leftovers(store string) (out []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if path := strings.TrimSpace(string(b)); err == nil && strings.HasPrefix(path, store+"/") && path != filepath.Join(store, "pool.xfs") {
			out = append(out, filepath.Base(filepath.Dir(filepath.Dir(f)))+" "+path)
		}
	}
	return out
}

// nothingLeft insists that what a dead process mounted goes with it.
func nothingLeft(t *testing.T, store string) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if left = leftovers(store); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind: %q", left)
}
