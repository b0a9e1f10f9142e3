package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

func TestReportRoundTrip(t *testing.T) {
	var line bytes.Buffer
	line.WriteString("noise on the port, and a half line LEEWARD-REPORT abc")
	if err := writeReport(&line, sourceFacts()); err != nil {
		t.Fatal(err)
	}
	line.WriteString("more noise")
	out := make(chan report, 1)
	readReports(&line, out)
	f, ok := <-out
	if !ok || f.facts.GetSystemState() != "degraded" || len(f.facts.GetListening()) != len(sourceFacts().GetListening()) {
		t.Fatalf("got %v", f)
	}
	if _, ok := <-out; ok {
		t.Error("a second report out of one")
	}
}

func TestReadReportsSurvivesAnEndlessLine(t *testing.T) {
	out := make(chan report, 1)
	r := io.LimitReader(zeros{}, maxReport+1<<20)
	readReports(r, out)
	if n, _ := io.Copy(io.Discard, r); n != 0 {
		t.Errorf("%d bytes left unread: the guest would stall", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func FuzzParseReport(f *testing.F) {
	var b bytes.Buffer
	if err := writeReport(&b, sourceFacts()); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimSpace(b.Bytes()))
	f.Add([]byte("LEEWARD-REPORT  END"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if g := parseReport(line); g != nil {
			Compare(sourceFacts(), g, nil)
			Compare(g, sourceFacts(), nil)
		}
	})
}

func TestEssenceIgnoresWhatNoCheckNeeds(t *testing.T) {
	a, b := sourceFacts(), sourceFacts()
	b.CollectedUnixNano, b.MemoryBytes = 1, 2
	if !bytes.Equal(essence(a), essence(b)) {
		t.Error("the time alone makes another report")
	}
	b.Listening = b.Listening[1:]
	if bytes.Equal(essence(a), essence(b)) {
		t.Error("a closed port makes no other report")
	}
}

func TestCloneFileKeepsDataAndHoles(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("begin"), 0)
	f.WriteAt([]byte("middle"), 100<<20)
	f.Truncate(300 << 20)
	f.Close()
	if err := CloneFile(t.Context(), src, dst); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dst, &st); err != nil || st.Size != 300<<20 || st.Blocks*512 > 8<<20 {
		t.Errorf("size %d, %d bytes allocated, %v", st.Size, st.Blocks*512, err)
	}
	g, _ := os.Open(dst)
	defer g.Close()
	for at, want := range map[int64]string{0: "begin", 100 << 20: "middle", 200 << 20: "\x00\x00"} {
		got := make([]byte, len(want))
		if _, err := g.ReadAt(got, at); err != nil || string(got) != want {
			t.Errorf("at %d: %q, %v", at, got, err)
		}
	}
	if err := CloneFile(t.Context(), src, dst); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
}

func TestRunTellsHostFromPoint(t *testing.T) {
	dir := t.TempDir()
	o := Options{WorkDir: filepath.Join(dir, "work"), ResultDir: filepath.Join(dir, "results"), Probe: "none", Accelerator: vm.TCG}
	subjects := []Subject{{Server: "gone", Disk: filepath.Join(dir, "none.raw"), Facts: &agentpb.Facts{}}}
	done := 0
	o.Progress = func(u Update) {
		if u.Result != nil {
			done++
		}
	}
	results, err := Run(t.Context(), subjects, o)
	if err == nil || len(results) != 1 || results[0].Outcome != dr.Unknown || !results[0].HostFault || done != 1 {
		t.Fatalf("got %+v, %v, %d done", results, err, done)
	}
	var hint *dr.Hinted
	if !errors.As(err, &hint) || hint.Hint == "" || !strings.Contains(err.Error(), "gone") {
		t.Errorf("error %v without a name or a hint", err)
	}
	if left, _ := os.ReadDir(o.WorkDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if results, err := Run(ctx, subjects, o); !errors.Is(err, context.Canceled) || results[0].Outcome != dr.Unknown {
		t.Errorf("cancelled: %+v, %v", results, err)
	}
	if _, err := Run(t.Context(), subjects, Options{}); err == nil {
		t.Error("accepted options without directories")
	}
}

func TestTurnsComeInOrder(t *testing.T) {
	dir := t.TempDir()
	o := Options{WorkDir: filepath.Join(dir, "work"), ResultDir: filepath.Join(dir, "results"), Probe: "none", Parallel: 1}
	var subjects []Subject
	var got []dr.ServerName
	for _, name := range []dr.ServerName{"c", "a", "b"} {
		subjects = append(subjects, Subject{Server: name, Disk: filepath.Join(dir, "none.raw"), Facts: &agentpb.Facts{}})
	}
	o.Progress = func(u Update) {
		if u.Result != nil {
			got = append(got, u.Server)
		}
	}
	if _, err := Run(t.Context(), subjects, o); err == nil || fmt.Sprint(got) != "[c a b]" {
		t.Errorf("turns of %v, %v", got, err)
	}
}

func TestOnlyEmulatedMachinesHoldBack(t *testing.T) {
	for accel, want := range map[vm.Accel]int{vm.TCG: len(costly()), vm.KVM: 0} {
		tu := &turn{d: &drills{o: Options{Accelerator: accel}}, r: &Result{HeldBack: []HeldBack{{Arg: "stale", What: "of an attempt before"}}}}
		if args := tu.holdBack(func(string) bool { return false }, noFiles); len(args) != want || len(tu.r.HeldBack) != want {
			t.Errorf("%s: arguments %v, on record %v", accel, args, tu.r.HeldBack)
		}
	}
}

func TestAdaptFailures(t *testing.T) {
	if f := adaptFailure(fmt.Errorf("kernel: %w", adapt.ErrNoKernel)); f.host || !strings.Contains(f.hint, "virtio") {
		t.Errorf("no kernel: %+v", f)
	}
	if f := adaptFailure(fmt.Errorf("mount: %w", syscall.ENODEV)); !f.host {
		t.Errorf("a filesystem this host does not know: %+v", f)
	}
}

func TestSignFailures(t *testing.T) {
	for text, want := range map[string]string{
		"ALERT!  UUID=1 does not exist.  Dropping to a shell!\n(initramfs) ":                            "did not find the root filesystem: ALERT!",
		"No init found. Try passing init= bootarg.\n(initramfs) ":                                       "holds no init",
		"[ 1.0] Kernel panic - not syncing: Attempted to kill init!":                                    "the kernel panicked",
		"You are in emergency mode. After logging in":                                                   "emergency mode",
		"error: file `/boot/vmlinuz' not found.":                                                        "boot loader could not load",
		"Fatal glibc error: CPU does not support x86-64-v2\nKernel panic - not syncing: Attempted":      "too old",
		"BdsDxe: No bootable option or device was found.":                                               "no boot loader",
		"BdsDxe: failed to load Boot0001 \"x\"\nBdsDxe: starting Boot0002\nLinux version 6\nlogin soon": "",
		"all is well": "",
	} {
		c := vm.NewConsole(nil)
		c.Write([]byte(text))
		if f := signFailure(c, time.Now()); f != nil {
			t.Errorf("%q: failed without grace: %+v", text, f)
		}
		f := signFailure(c, time.Now().Add(failureGrace))
		switch {
		case want == "" && f != nil:
			t.Errorf("%q: %+v", text, f)
		case want != "" && (f == nil || !strings.Contains(f.cause, want) || f.hint == ""):
			t.Errorf("%q: %+v, want %q", text, f, want)
		}
	}
}

func TestTimeoutFailures(t *testing.T) {
	silent, talking := vm.NewConsole(nil), vm.NewConsole(nil)
	talking.Write([]byte("[ OK ] Started one thing\nweb1 login: "))
	bad := []Check{{"listening ports", dr.NotDone, "tcp port 80 of nginx is closed"}}
	for name, test := range map[string]struct {
		f    failure
		want string
		host bool
	}{
		"silent":      {timeoutFailure(silent, nil, false, time.Minute), "no sign of life", true},
		"no report":   {timeoutFailure(talking, nil, false, time.Minute), "no report from inside", false},
		"wrong ports": {timeoutFailure(talking, bad, true, time.Minute), "tcp port 80 of nginx is closed", false},
	} {
		if !strings.Contains(test.f.cause, test.want) || test.f.host != test.host || test.f.hint == "" {
			t.Errorf("%s: %+v", name, test.f)
		}
	}
}

func TestSweepTakesWhatNobodyHolds(t *testing.T) {
	in := t.TempDir()
	held, lock, err := makeWorkDir(in, "held")
	if err != nil {
		t.Fatal(err)
	}
	left, dead, err := makeWorkDir(in, "left")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	young := filepath.Join(in, workPrefix+"young")
	other := filepath.Join(in, "other")
	for _, dir := range []string{young, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	exist := func(dirs ...string) string {
		s := ""
		for _, d := range dirs {
			if _, err := os.Stat(d); err == nil {
				s += filepath.Base(d)[:4] + " "
			} else {
				s += "gone "
			}
		}
		return s
	}
	if err := sweep(in, time.Now()); err != nil || exist(held, left, young, other) != ".dri gone .dri othe " {
		t.Errorf("now: %s, %v", exist(held, left, young, other), err)
	}
	lock.Close()
	if err := sweep(in, time.Now().Add(2*youngest)); err != nil || exist(held, left, young, other) != "gone gone gone othe " {
		t.Errorf("later: %s, %v", exist(held, left, young, other), err)
	}
}
