// Package drill proves recovery points: it boots each from a throwaway clone on
// a network that leads nowhere and compares what came up with what runs at the
// source. Nothing of a drill outlives it but its result, its serial log and its
// picture of the screen.
package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

// Subject is one recovery point to prove.
type Subject struct {
	Server     dr.ServerName
	Point      dr.PointID
	Disk       string            // the point's disk, a raw image; it is only read
	Partitions []adapt.Partition // of that disk
	Facts      *agentpb.Facts    // of the source at that point
	Names      []string          // by which others know it, beside its own
	After      []dr.ServerName   // proven before its turn comes, and up until it is over
	Hold       []string          // units of systemd that are held back, beside those of the table
	Probes     []Probe           // asked when it is up
	// Clone makes dst a copy of the disk that may be changed; nil uses CloneFile.
	Clone func(ctx context.Context, dst string) error `json:"-"`
}

// Options say how to drill. The zero value of each is a good default, but for
// WorkDir and ResultDir.
type Options struct {
	Parallel    int              // machines at once; by default one a core, and one more where they are emulated
	Accelerator vm.Accel         // auto by default
	Firmware    vm.Firmware      // by default what the source started from
	Timeout     time.Duration    // of one boot; 10 minutes by default
	Memory      int64            // bytes of each machine; by default the source's, between 512 MiB and 1 GiB
	WorkDir     string           // for clones; on the filesystem of the points, so that they share blocks
	ResultDir   string           // receives serial logs and pictures
	Probe       string           // the program that reports from inside; by default this one
	StopEarly   bool             // begin no further boot once one failed
	Outside     []netip.AddrPort // what must not be reached from the machines' network
	// Keep is called when all is decided, while what was proven still runs and can
	// be reached; all of that ends when it returns.
	Keep func(ctx context.Context, open []Open)
	// Progress is told of each step, from several goroutines at once; it must not
	// block.
	Progress func(Update)

	freeMemory func() (int64, error) // of this host; its own by default
}

// Open is a machine that runs in its bubble.
type Open struct {
	Server  dr.ServerName `json:"server"`
	Address netip.Addr    `json:"address"`
	Enter   string        `json:"enter"` // its network namespace, for nsenter --net=
}

// Update is a step of one subject.
type Update struct {
	Server dr.ServerName
	Step   string
	After  time.Duration // since the subject's turn came
	Result *Result       // set with the last one
}

// Steps before those of the console.
const (
	StepClone  = "clone"
	StepAdapt  = "adapt"
	StepBoot   = "boot"
	StepReport = "report"
	StepProbe  = "probe"
	StepDone   = "done"
)

const (
	defaultTimeout = 10 * time.Minute
	leastMemory    = 512 << 20
	mostMemory     = 1 << 30
)

// Run drills all subjects and returns a result for each, in their order, also
// with an error. The error is nil exactly when every one was proven. Turns come in
// that order too, so the one that takes longest is best the first. The process
// should be in a private mount namespace (see mountns).
func Run(ctx context.Context, subjects []Subject, o Options) ([]Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(subjects))
	for i, s := range subjects {
		results[i] = Result{Server: s.Server, Point: s.Point, Cause: "not begun"}
	}
	d := &drills{o: o, subjects: subjects, results: results}
	if err := d.openNetworks(ctx, subjects); err != nil {
		return nil, errors.Join(fmt.Errorf("drill: %w", err), d.closeNetworks(results))
	}
	turns := newSchedule(subjects)
	var wg sync.WaitGroup
	for range min(o.Parallel, len(subjects)) {
		wg.Go(func() { d.work(ctx, turns) })
	}
	wg.Wait()
	if o.Keep != nil && ctx.Err() == nil {
		o.Keep(ctx, d.open())
	}
	turns.forgo()
	return results, errors.Join(ctx.Err(), verdict(results), d.closeNetworks(results))
}

// open lists what was proven and still runs.
func (d *drills) open() (out []Open) {
	for i, r := range d.results {
		if r.Outcome == dr.Done && d.network(i) != nil {
			out = append(out, Open{r.Server, address(d.subjects[i]), d.network(i).Enter()})
		}
	}
	return out
}

func (d *drills) network(i int) *network {
	if d.networks == nil {
		return nil
	}
	return d.networks[i]
}

func verdict(results []Result) error {
	var errs []error
	for _, r := range results {
		if r.Outcome != dr.Done {
			errs = append(errs, dr.WithHint(fmt.Errorf("drill %s: %s", r.Server, r.Cause), r.Hint))
		}
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() (Options, error) {
	if o.WorkDir == "" || o.ResultDir == "" {
		return o, errors.New("drill: want a work and a result directory")
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.NumCPU()
		if vm.Emulated(o.Accelerator) {
			o.Parallel++ // their waits, for timers and for each other, leave room
		}
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.freeMemory == nil {
		o.freeMemory = vm.AvailableMemory
	}
	if o.Progress == nil {
		o.Progress = func(Update) {}
	}
	if o.Probe == "" {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("drill: find own program: %w", err)
		}
		o.Probe = self
	}
	for _, dir := range []string{o.WorkDir, o.ResultDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return o, fmt.Errorf("drill: %w", err)
		}
	}
	if err := sweep(o.WorkDir, time.Now()); err != nil {
		return o, fmt.Errorf("drill: %w", err)
	}
	return o, nil
}

// drills is one Run.
type drills struct {
	o        Options
	subjects []Subject
	results  []Result   // each is its own turn's until that is over
	networks []*network // by subject; nil where cards lead nowhere
	opened   []*network

	mu        sync.Mutex // guards what follows
	failed    bool
	promised  int64    // bytes of memory that machines have or may still take
	budget    int64    // that was free before the first of them
	undecided int      // turns that have memory and are not over
	accel     vm.Accel // found out once
	accelWhy  string
}

// one drills subject i, whose turn it is, and leaves the turn to be released.
func (d *drills) one(ctx context.Context, i int) *turn {
	r := &d.results[i]
	t := &turn{d: d, s: d.subjects[i], r: r, network: d.network(i), began: time.Now()}
	if err := ctx.Err(); err != nil {
		r.Cause = err.Error()
		return t
	}
	if d.o.StopEarly && d.anyFailed() {
		return t
	}
	r.Cause, r.Began = "", t.began.UTC()
	if note := d.lacking(i); note != "" {
		r.Notes = append(r.Notes, note)
	}
	t.run(ctx)
	t.noteUnasked()
	if r.Outcome != dr.Done {
		if note := busyNote(loadAverage(), d.o.Parallel); note != "" {
			r.Notes = append(r.Notes, note)
		}
		d.mu.Lock()
		d.failed = true
		d.mu.Unlock()
	}
	r.Took = time.Since(t.began)
	r.Phases = phasesOf(r.Steps, r.Took)
	d.o.Progress(Update{Server: t.s.Server, Step: StepDone, After: r.Took, Result: r})
	return t
}

func (d *drills) anyFailed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// accelerator finds out once, with the first kernel at hand, what machines run
// on.
func (d *drills) accelerator(ctx context.Context, kernel, dir string) (vm.Accel, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.accel == "" {
		d.accel, d.accelWhy = vm.Accelerator(ctx, d.o.Accelerator, kernel, dir)
	}
	return d.accel, d.accelWhy
}

// turn is one subject's drill under way.
type turn struct {
	d         *drills
	s         Subject
	r         *Result
	network   *network // nil: cards lead nowhere
	began     time.Time
	dir       string    // gone afterwards
	disk      string    // the clone
	fstab     string    // of the clone, as the machine reads it
	packages  *Packages // of the clone before it boots; nil where there are none to compare
	answers   []Check   // that the machine gave to the probes asked inside
	lock      *os.File
	machine   *vm.Machine // proven, and left running
	counted   int64       // bytes of drills.promised
	undecided bool        // counted in drills.undecided
}

// release ends what the turn left: its machine and its clone.
func (t *turn) release() {
	if t.machine != nil {
		t.machine.Close()
	}
	t.giveMemory()
	if t.dir != "" {
		os.RemoveAll(t.dir) // what cannot be removed now, the next run sweeps away
		t.lock.Close()
	}
}

func (t *turn) step(name string) {
	after := time.Since(t.began)
	t.r.Steps = append(t.r.Steps, Step{name, after})
	t.d.o.Progress(Update{Server: t.s.Server, Step: name, After: after})
}

// fail records why the subject is not proven. A fault of this host says nothing
// of the recovery point: its outcome stays unknown.
func (t *turn) fail(f failure) {
	if f.mount != "" {
		f.cause += fstabLine(t.fstab, f.mount)
	}
	t.r.Outcome, t.r.Cause, t.r.Hint, t.r.HostFault = dr.NotDone, f.cause, f.hint, f.host
	if f.host {
		t.r.Outcome = dr.Unknown
	}
}

func (t *turn) run(ctx context.Context) {
	dir, lock, err := makeWorkDir(t.d.o.WorkDir, string(t.s.Server))
	if err != nil {
		t.fail(hostFailure("make work directory", err))
		return
	}
	t.lock = lock
	t.dir, t.disk = dir, filepath.Join(dir, "disk.raw")
	t.r.Firmware = t.firmware()
	for t.r.Attempts < 2 {
		t.r.Attempts++
		report, kernel, f := t.prepare(ctx)
		t.r.Adaptation = report
		if f != nil {
			t.fail(*f)
			return
		}
		again := t.boot(ctx, kernel)
		if !again || ctx.Err() != nil {
			return
		}
	}
}

func (t *turn) firmware() vm.Firmware {
	switch {
	case t.d.o.Firmware != "":
		return t.d.o.Firmware
	case t.s.Facts.GetUefi():
		return vm.UEFI
	}
	return vm.BIOS
}

// prepare makes a fresh clone and adapts it. kernel is a copy of the one that
// will boot.
func (t *turn) prepare(ctx context.Context) (report *adapt.Report, kernel string, f *failure) {
	t.step(StepClone)
	if err := os.Remove(t.disk); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", failed(hostFailure("remove old clone", err))
	}
	clone := t.s.Clone
	if clone == nil {
		clone = func(ctx context.Context, dst string) error { return CloneFile(ctx, t.s.Disk, dst) }
	}
	if err := clone(ctx, t.disk); err != nil {
		return nil, "", failed(hostFailure("clone the point's disk", err))
	}
	t.step(StepAdapt)
	img, err := adapt.Open(ctx, t.disk, t.s.Partitions, t.s.Facts, filepath.Join(t.dir, "image"))
	if err != nil {
		return nil, "", failed(adaptFailure(err))
	}
	report, err = t.adapt(ctx, img)
	if err == nil {
		if fstab, err := img.ReadFile("/etc/fstab"); err == nil { // without one there is no line to name
			t.fstab = string(fstab)
		}
		kernel = filepath.Join(t.dir, "kernel")
		err = img.Export(report.Kernel.File, kernel)
	}
	if err := errors.Join(err, img.Close()); err != nil {
		return report, "", failed(adaptFailure(err))
	}
	return report, kernel, nil
}

func (t *turn) adapt(ctx context.Context, img *adapt.Image) (*adapt.Report, error) {
	o := adapt.Options{Firmware: string(t.r.Firmware), Probe: t.d.o.Probe, Args: t.holdBack(img.Exists, img.ReadFile)}
	var err error
	if o.Ask, err = json.Marshal(question{Probes: t.insideProbes(), Share: t.packageShare()}); err != nil {
		return nil, err
	}
	report, err := adapt.Apply(ctx, img, t.s.Facts, o)
	if err != nil {
		return report, err
	}
	if t.packages, err = ReadPackages(t.packageShare(), img.Place); err != nil {
		t.r.Notes = append(t.r.Notes, "packages are not compared: "+err.Error())
	}
	return report, nil
}
