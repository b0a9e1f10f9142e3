package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
)

// TestDrillBubble damages the newest point of web1 and drills it and db1 while passes go on:
// the damaged point is refused and the one before proven, the passes are as ever, nothing
// leaves the bubble, and nothing of the drill is left but its report.
func TestDrillBubble(t *testing.T) {
	w := &shared
	if w.skip != "" {
		t.Skip(w.skip)
	}
	store := w.newStore(t)
	config := w.estate(t, inStore(store), only(
		`{name: web1, host: web1, probes: [{http: "http://:80/", status: 200}]}`,
		`{name: db1, host: db1, after: [web1], probes: [{sql: "select count(*) > 0 from pg_class", engine: postgres, expect: t}, {tcp: 22}]}`))
	w.must(t, config, "replicate")
	w.in(t, "web1", "date > /etc/leeward-e2e-second")
	w.must(t, config, "replicate", "web1")
	points := w.points(t, store, "web1")
	spoil(t, points[0].Disk(), []byte("root:x:0:0:root:/root"))

	alone := w.run(t, config, "drill", "web1")
	alone.says(t, 1, "refused", "/etc/passwd: content", string(points[1].ID), "--fallback")

	d := w.start(t, config, "drill", "web1", "db1", "--fallback")
	passes := 0
	for d.running() {
		r := w.run(t, config, "replicate", "db1")
		if r.code != 0 {
			t.Errorf("a pass beside a drill: %s", r)
			break
		}
		passes++
	}
	r := d.wait()
	var res struct {
		Dir     string
		Servers []drill.Result
	}
	result(t, r, &res)
	if r.code != 3 || len(res.Servers) != 3 || !res.Servers[0].Refused || res.Servers[0].Point != points[0].ID || res.Servers[1].Point != points[1].ID {
		t.Fatalf("%d: %+v", r.code, r)
	}
	t.Logf("%d passes beside the drill", passes)
	if passes == 0 {
		t.Error("no pass ended while the drill went on")
	}
	for _, s := range res.Servers[1:] {
		sound(t, s)
	}
	for _, name := range []string{"report.html", "report.md", "report.json"} {
		if st, err := os.Stat(filepath.Join(res.Dir, name)); err != nil || st.Size() < 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingLeft(t, store)
	if left, _ := filepath.Glob(filepath.Join(res.Dir, "..", "..", "scratch", "drill-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// sound checks what a result says of a proven server.
func sound(t *testing.T, s drill.Result) {
	t.Helper()
	if s.Outcome != dr.Done || s.Digests == nil || s.Bubble == nil {
		t.Errorf("%s: %s: %s", s.Server, s.Outcome, s.Cause)
		return
	}
	if s.Bubble.Frames == 0 || s.Bubble.Left != 0 {
		t.Errorf("%s: frames of the bubble: %+v", s.Server, s.Bubble)
	}
	if s.Digests.Untouched.Outcome != dr.Done || s.Digests.Replica.Outcome == dr.NotDone || s.Digests.Entries == 0 {
		t.Errorf("%s: digests %+v", s.Server, s.Digests)
	}
	packages := false
	for _, c := range s.Checks {
		packages = packages || c.Name == "packages" && strings.Contains(c.Detail, "packages as at the source")
	}
	for _, p := range s.Probes {
		if p.Outcome != dr.Done {
			t.Errorf("%s: probe %+v", s.Server, p)
		}
	}
	if h := s.Phases; !packages || h.Clone <= 0 || h.Adapt <= 0 || h.Boot <= 0 || h.Probe <= 0 || len(s.Probes) == 0 {
		t.Errorf("%s: phases %+v, checks %+v", s.Server, h, s.Checks)
	}
}

// spoil changes one byte of each occurrence of text on a disk.
func spoil(t *testing.T, disk string, text []byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	buf := make([]byte, 4<<20)
	for at := int64(0); ; {
		if at, err = f.Seek(at, unix.SEEK_DATA); err != nil {
			break // a hole to the end
		}
		n, err := f.ReadAt(buf, at)
		for i := bytes.Index(buf[:n], text); i >= 0; i = -1 {
			if _, err := f.WriteAt([]byte("y"), at+int64(i)+5); err != nil {
				t.Fatal(err)
			}
			hits++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		at += int64(n)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if hits == 0 {
		t.Fatalf("%q is not on %s", text, disk)
	}
}
