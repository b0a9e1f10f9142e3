package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/forecast"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

var testEstate = &config.Estate{
	Name: "acme", Source: config.Source{Name: "miami"},
	Target:   config.Target{Name: "dallas", Store: "/srv/leeward", Network: []config.NetworkMap{{From: netip.MustParsePrefix("10.0.0.0/24")}}},
	Servers:  []config.Server{{Name: "web1"}, {Name: "db1"}, {Name: "db2"}},
	Groups:   []config.Group{{Name: "all", Order: []string{"db1", "web1"}, Objective: config.Objective{RPO: time.Hour}}},
	Deadline: epoch.Add(96 * time.Hour),
}

func same(t *testing.T, want string, render func(io.Writer)) {
	t.Helper()
	var b bytes.Buffer
	render(&b)
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func samplePlan() *protect.PlanResult {
	f := forecast.Make(forecast.Input{Link: forecast.Exactly(24.1e6), Items: []forecast.Item{{Name: "web1", Wire: forecast.Exactly(410e6)}, {Name: "db1", Wire: forecast.Exactly(2e9)}}})
	v := f.Against(epoch, testEstate.Deadline)
	return &protect.PlanResult{
		Servers: []protect.ServerPlan{
			{
				Server: "web1", Reachable: true, System: "Debian GNU/Linux 12 (bookworm), kernel 6.1.0, BIOS",
				Filesystems: []protect.FilesystemPlan{{MountPoint: "/", Type: "ext4", Size: 2_600_000_000, Used: 1_100_000_000, Inodes: 34567}, {MountPoint: "/boot", Type: "ext4", Size: 250_000_000, Used: 99_000_000, Inodes: 312}},
				Excluded:    []protect.Exclusion{{Path: "/proc", Reason: "made by the kernel"}, {Path: "/swapfile", Reason: "swap"}, {Path: "/sys", Reason: "made by the kernel"}},
				Bytes:       1_199_000_000, Wire: 410_000_000,
			},
			{
				Server: "db1", Reachable: true, System: "Debian GNU/Linux 12", Bytes: 5,
				Databases: []protect.DatabasePlan{{Engine: "mariadb", DataDir: "/var/lib/mysql", Decision: "left out: it runs", Advice: "put it on LVM"}},
				Findings:  []protect.Finding{{Level: protect.Warning, Text: "the clock is 4m behind", Hint: "run ntp there"}},
			},
			{Server: "db2", Err: "reach db2: refused", Hint: "give a key", Findings: []protect.Finding{{Level: protect.Blocker, Text: "reach db2: refused"}}},
		},
		Target: protect.TargetSpace{Store: "/srv/leeward", Need: 12_000_000_000, Free: 8_000_000_000},
		Bytes:  9_500_000_000, Measured: 24_100_000, Deadline: testEstate.Deadline, Forecast: &f, Verdict: &v,
		Findings: []protect.Finding{{Level: protect.Blocker, Text: "the store is too small"}},
	}
}

func TestRenderPlan(t *testing.T) {
	same(t, `
acme: miami to dallas, 3 servers

web1  Debian GNU/Linux 12 (bookworm), kernel 6.1.0, BIOS
    /      ext4  1.10 GB of 2.60 GB  34,567 entries
    /boot  ext4   99.0 MB of 250 MB     312 entries
    to carry 1.20 GB, about 410 MB of it on the wire
    left out (made by the kernel): /proc /sys
    left out (swap): /swapfile

db1  Debian GNU/Linux 12
    to carry 5 B, no forecast yet
    database mariadb in /var/lib/mysql: left out: it runs
      what to do: put it on LVM
    warning: the clock is 4m behind
      what to do: run ntp there

db2  NOT REACHABLE
    reach db2: refused
    what to do: give a key

BLOCKER: the store is too small
Store /srv/leeward: needs 12.0 GB, 8.00 GB free  NOT ENOUGH
To carry: 9.50 GB; the link carries 24.1 MB/s
Safe, if a pass begins now:
          likely in  19 of 20 in  on the wire  deadline
    web1        30s          30s       410 MB  3d23h to spare
    db1       1m40s        1m40s      2.00 GB  3d23h to spare
    all       1m40s        1m40s      2.41 GB
Deadline: Sun 10 Sep 2017 03:00 +00:00, in 4d00h: in time, with 3d23h to spare; begin by Sun 10 Sep 2017 02:58 +00:00 at the latest
Not ready: db2
`, func(w io.Writer) { renderPlan(w, testEstate, samplePlan(), epoch) })
}

func TestPlanCode(t *testing.T) {
	p := samplePlan()
	if got := planCode(p); got != exitFailed {
		t.Errorf("with a blocker of the estate: %d", got)
	}
	p.Findings = nil
	if got := planCode(p); got != exitIncomplete {
		t.Errorf("with one server out of reach: %d", got)
	}
	p.Servers = p.Servers[:2]
	if got := planCode(p); got != exitDone {
		t.Errorf("with nothing in the way: %d", got)
	}
}

func TestDeadlineWords(t *testing.T) {
	for _, c := range []struct {
		away, safe time.Duration
		want       string
	}{
		{time.Hour, 2 * time.Hour, "in 1h00m: TOO LATE by 1h00m"}, {-time.Hour, time.Hour, "1h00m ago: MISSED"}, {time.Hour, 0, "in 1h00m"},
		{2 * time.Hour, time.Hour, "in 2h00m: in time, with 1h00m to spare; begin by " + clock(epoch.Add(time.Hour)) + " at the latest"},
	} {
		res := &protect.PlanResult{Deadline: epoch.Add(c.away)}
		if c.safe > 0 {
			v := forecast.Forecast{Safe: forecast.Span{P95: c.safe}}.Against(epoch, res.Deadline)
			res.Verdict = &v
		}
		if got := deadlineWords(res, epoch); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestRenderRescue shows what a person reads when not everything is in time.
func TestRenderRescue(t *testing.T) {
	in := forecast.Input{Link: forecast.Exactly(1e6), Items: []forecast.Item{{Name: "files1", Wire: forecast.Exactly(4e9)}, {Name: "web1", Wire: forecast.Exactly(300e6)}}}
	f := forecast.Make(in)
	res := &protect.PlanResult{Forecast: &f, Deadline: epoch.Add(30 * time.Minute)}
	v, r := f.Against(epoch, res.Deadline), forecast.Save(in, 30*time.Minute)
	res.Verdict, res.Rescue = &v, &r
	same(t, `Safe, if a pass begins now:
            likely in  19 of 20 in  on the wire  deadline
    files1      1h12m        1h12m      4.00 GB  TOO LATE by 42m
    web1          10m          10m       300 MB  20m to spare
    all         1h12m        1h12m      4.30 GB
Deadline: Wed 6 Sep 2017 03:30 +00:00, in 30m00s: TOO LATE by 42m
    in time if carried one after the other: web1
    not in time: files1
    a link 2.5 times as fast would be enough for all side by side
`, func(w io.Writer) { renderForecast(w, res, epoch) })
}

func sampleRun() *protect.RunResult {
	return &protect.RunResult{Duration: 72 * time.Second, Servers: []protect.ServerRun{
		{Server: "web1", Outcome: dr.Done, Point: "20170906T030000.000Z", Duration: 58 * time.Second, Traffic: dr.Traffic{WireIn: 120_000_000, WireOut: 300_000, Read: 1_100_000_000, Sent: 400_000_000, Reused: 700_000_000}},
		{Server: "db1", Outcome: dr.Done, Point: "20170906T030001.000Z", Duration: time.Second, Fuzzy: []string{"/var/log/x"}, Warnings: []string{"quotas are not carried"}},
		{Server: "db2", Outcome: dr.NotDone, Duration: 2 * time.Second, Err: "reach db2: refused", Hint: "give a key"},
	}}
}

func TestRenderRun(t *testing.T) {
	same(t, `
server  outcome   took     read    sent  reused    wire  recovery point
web1    done       58s  1.10 GB  400 MB  700 MB  120 MB  20170906T030000.000Z
db1     done      1.0s      0 B     0 B     0 B     0 B  20170906T030001.000Z
db2     not done  2.0s      0 B     0 B     0 B     0 B  none

db1
    warning: quotas are not carried
    1 file changed each time it was read, so the copy may mix old and new:
      /var/log/x

db2
    reach db2: refused
    what to do: give a key

2 of 3 servers done, 1 NOT DONE in 1m12s, 120 MB on the wire
`, func(w io.Writer) { renderRun(w, sampleRun()) })
}

func sampleVerify() *protect.VerifyResult {
	many := make([]protect.Difference, 25)
	for i := range many {
		many[i] = protect.Difference{Path: "/srv/f", Kind: "missing"}
	}
	many[0] = protect.Difference{Path: "/etc/passwd", Kind: "content", Detail: "12 bytes, the source has 13"}
	return &protect.VerifyResult{Duration: 9 * time.Second, Patterns: []string{"/var/log/**"}, Servers: []protect.ServerVerify{
		{Server: "web1", Outcome: dr.Done, Entries: 34567, Bytes: 1_100_000_000, Volatile: many[:3], Newer: many[:1], Duration: 8 * time.Second},
		{Server: "db1", Outcome: dr.NotDone, Entries: 5, Differences: many, Duration: time.Second},
		{Server: "db2", Outcome: dr.NotDone, Err: "reach db2: refused"},
	}}
}

func TestRenderVerify(t *testing.T) {
	same(t, `
server  verdict       entries  content  differ  volatile  newer  took
web1    equal          34,567  1.10 GB       0         3      1  8.0s
db1     DIFFERENT           5      0 B      25         0      0  1.0s
db2     not compared        0      0 B       0         0      0  0.0s

db1
    25 differences:
      content  /etc/passwd  12 bytes, the source has 13
`+strings.Repeat("      missing  /srv/f\n", 19)+`      and 5 more; --json has all

db2
    reach db2: refused

volatile, may differ: /var/log/**

1 of 3 servers equal to the source, 2 NOT DONE in 9.0s
`, func(w io.Writer) { renderVerify(w, sampleVerify()) })
}

func sampleDrill(dir string) *drillResult {
	return &drillResult{Version: 1, Started: epoch, Duration: 2 * time.Minute, Dir: "/srv/leeward/drills/x",
		Groups: []drillGroup{{Name: "all", Outcome: dr.NotDone, Servers: []dr.ServerName{"web1", "db1"}}}, Servers: []drill.Result{
			{
				Server: "web1", Point: "20170906T030000.000Z", Outcome: dr.Done, Firmware: "bios", Accelerator: "tcg", TimeToProof: 43 * time.Second, Took: 62 * time.Second,
				Phases: drill.Phases{Clone: 100 * time.Millisecond, Adapt: 2 * time.Second, Boot: 40 * time.Second, Probe: 3 * time.Second},
				Checks: []drill.Check{{Name: "login prompt", Outcome: dr.Done}}, Screenshot: filepath.Join(dir, "web1.png"),
				Notes: []string{"no AVX-512"}, HeldBack: []drill.HeldBack{{Arg: "norandmaps", What: "random addresses"}},
			},
			{
				Server: "db1", Point: "20170906T030001.000Z", Outcome: dr.NotDone, Firmware: "uefi", Accelerator: "tcg", Took: 90 * time.Second,
				Checks: []drill.Check{{Name: "ports", Outcome: dr.NotDone, Detail: "5432 is not open"}}, Cause: "1 check failed", Hint: "look at the log", SerialLog: "/srv/db1.log",
				HeldBack: []drill.HeldBack{{Arg: "norandmaps", What: "random addresses"}},
			},
		}}
}

func TestRenderDrill(t *testing.T) {
	same(t, `
server  verdict     firmware  run by  clone  adapt  boot  probe   took  checks  recovery point
web1    proven      bios      tcg      0.1s   2.0s   40s   3.0s  1m02s  1 of 1  20170906T030000.000Z
db1     NOT PROVEN  uefi      tcg         -      -     -      -  1m30s  0 of 1  20170906T030001.000Z

group  verdict     achieved RTO  last one
all    NOT PROVEN             -  -

db1
    1 check failed
    what to do: look at the log
    check ports: not done: 5432 is not open
    serial log: /srv/db1.log

web1: note: no AVX-512

held back: random addresses (norandmaps)

1 of 2 servers proven by booting, 1 NOT DONE in 2m00s; report: /srv/leeward/drills/x/report.html
`, func(w io.Writer) { renderDrill(w, sampleDrill("")) })
}

func TestRenderProbes(t *testing.T) {
	same(t, `
server  probe              outcome   answer
web1    tcp :22            done      takes connections at 10.10.0.11:22
web1    http://:8080/ok    not done  status 503
db1     command psql -Atc  unknown   not asked
`, func(w io.Writer) {
		renderProbes(w, []drill.Result{{Server: "web1", Probes: []drill.Check{{Name: "tcp :22", Outcome: dr.Done, Detail: "takes connections at 10.10.0.11:22"},
			{Name: "http://:8080/ok", Outcome: dr.NotDone, Detail: "probe http://:8080/ok: status 503"}}},
			{Server: "app1"}, {Server: "db1", Probes: []drill.Check{{Name: "command psql -Atc", Outcome: dr.Unknown, Detail: "not asked"}}}})
	})
	same(t, "", func(w io.Writer) { renderProbes(w, []drill.Result{{Server: "web1"}}) })
}

func TestStatus(t *testing.T) {
	at := func(age time.Duration) []*replica.Point {
		id := dr.NewPointID(epoch.Add(-age))
		return []*replica.Point{{ID: id, Manifest: &replica.Manifest{ID: id, Started: epoch.Add(-age), Consistency: dr.Crash}}}
	}
	res, parts := judge(testEstate, []storedServer{{name: "web1", points: at(time.Minute)}, {name: "db1", points: at(2 * time.Hour)}, {name: "db2"}}, epoch)
	addDrills(res, map[dr.ServerName]drill.Result{
		"web1": {Point: "20170906T025900.000Z", Outcome: dr.Done, TimeToProof: 43 * time.Second}, "db1": {Outcome: dr.NotDone},
	})
	if code := outcomeCode(parts); code != exitIncomplete {
		t.Errorf("code %d", code)
	}
	same(t, `server  state       age  objective  consistency  newest recovery point             last drill
web1    ok        1m00s      1h00m  crash        20170906T025900.000Z              proven in 43s
db1     TOO OLD   2h00m      1h00m  crash        20170906T010000.000Z              NOT PROVEN
db2     NO POINT      -       none  -            none; run: leeward replicate db2
`, func(w io.Writer) { renderStatus(w, res) })
}

func TestDrillRecords(t *testing.T) {
	dir := t.TempDir()
	write := func(id string, r drillResult) {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, drillsDir, id)
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, drillFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("20170901T000000.000Z", drillResult{Version: 1, Servers: []drill.Result{{Server: "web1", Point: "old"}, {Server: "db1", Point: "p"}}})
	write("20170902T000000.000Z", drillResult{Version: 1, Servers: []drill.Result{{Server: "web1", Point: "new"}}})
	write("20170903T000000.000Z", drillResult{Version: 99, Servers: []drill.Result{{Server: "web1", Point: "future"}}})
	got := lastDrills(dir)
	if len(got) != 2 || got["web1"].Point != "new" || got["db1"].Point != "p" {
		t.Errorf("got %+v", got)
	}
}

// TestReport makes the page from records as the commands write them.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	png := append([]byte("\x89PNG\r\n\x1a\n"), 1, 2, 3)
	if err := os.WriteFile(filepath.Join(dir, "web1.png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
	hostile := sampleVerify()
	hostile.Servers[1].Differences[0].Path = "/srv/<script>alert(1)</script>"
	var files []string
	for _, r := range []struct {
		command string
		result  any
	}{{"plan", samplePlan()}, {"replicate", sampleRun()}, {"replicate", sampleRun()}, {"verify", hostile}, {"drill", sampleDrill(dir)}} {
		c := &call{command: find(r.command), result: r.result, started: epoch}
		b, err := c.envelope(exitIncomplete, nil)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(dir, r.command+string(rune('0'+len(files)))+".json"))
		if err := os.WriteFile(files[len(files)-1], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "report.html")
	code, _, errw := run(t, t.Context(), append([]string{"report", "-o", out}, files...)...)
	if code != 0 {
		t.Fatalf("code %d: %s", code, errw)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, want := range []string{
		"The pass (number 2)", "Not everything is done: 1 of 2 servers proven by booting.", "db1: NOT PROVEN: 1 check failed. What to do: look at the log", "1.10 GB", "the screen of web1", "data:image/png;base64,iVBORw0K",
		"5432 is not open", "&lt;script&gt;", "store needs 12.0 GB", "NOT PROVEN",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, bad := range []string{"<script", "ZgotmplZ", "the screen of db1", "http://", "https://"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if code, _, errw := run(t, t.Context(), "report", "-o", out, out); code != 1 || !strings.Contains(errw, "read record "+out) {
		t.Errorf("of a file that is no record: code %d, %s", code, errw)
	}
}
