package drill

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

const (
	// failureGrace is how long a machine may go on after a bad sign: some are
	// followed by a good end, and the lines after one tell more.
	failureGrace = 8 * time.Second
	// settleTime is how long a machine that has started may take to become like
	// its source: services open their ports a while after they count as started.
	settleTime     = 90 * time.Second
	pictureTimeout = 10 * time.Second
	askEvery       = 2 * time.Second
)

// boot starts the machine and watches it until it is proven, and leaves it running for
// those that come after it, or has failed; then it ends it at once. again asks for another
// attempt: the machine never said a word.
func (t *turn) boot(ctx context.Context, kernel string) (again bool) {
	t.step(StepBoot)
	accel, why := t.d.accelerator(ctx, kernel, t.dir)
	t.r.Accelerator = accel
	for _, note := range []string{why, vm.CPUWarning(accel, t.s.Facts.GetX86Level())} {
		if note != "" && !slices.Contains(t.r.Notes, note) {
			t.r.Notes = append(t.r.Notes, note)
		}
	}
	spec := t.spec(accel)
	if f := t.awaitMemory(ctx); f != nil {
		t.fail(*f)
		return false
	}
	powerOn := time.Now()
	m, err := vm.Start(ctx, spec)
	if err != nil {
		t.fail(hostFailure("start the machine", err))
		return false
	}
	defer func() {
		if t.machine == nil {
			m.Close()
			t.giveMemory()
		}
	}()
	bounded, cancel := context.WithTimeout(ctx, t.d.o.Timeout)
	defer cancel()
	w := &watch{t: t, m: m, powerOn: powerOn}
	f := w.proven(bounded)
	proven := time.Since(powerOn)
	t.picture(ctx, m)
	if f == nil {
		t.r.Outcome, t.r.Cause, t.r.Hint, t.r.HostFault = dr.Done, "", "", false
		t.r.TimeToProof = proven
		t.machine = m
		return false
	}
	if err := ctx.Err(); err != nil {
		t.fail(hostFailure("wait for the machine", err))
		return false
	}
	t.fail(*f)
	return m.Console().Bytes() == 0 && bounded.Err() != nil
}

func (t *turn) spec(accel vm.Accel) vm.Spec {
	memory := t.d.o.Memory
	if memory == 0 {
		memory = min(max(int64(t.s.Facts.GetMemoryBytes()), leastMemory), mostMemory)
	}
	t.r.Memory = memory
	t.r.SerialLog = t.resultFile("serial.log")
	s := vm.Spec{Name: string(t.s.Server), Dir: t.dir, Disk: t.disk, Firmware: t.r.Firmware, Memory: memory,
		Accel: accel, SerialLog: t.r.SerialLog}
	for _, c := range adapt.Cards(t.s.Facts) {
		n := vm.NIC{Name: c.GetName(), MAC: c.GetMac()}
		if t.network != nil {
			n.Wire = t.network.Wire
		}
		s.NICs = append(s.NICs, n)
	}
	return s
}

// resultFile names a file of this subject that stays. It is absolute.
func (t *turn) resultFile(kind string) string {
	name := fmt.Sprintf("%s-%s-%s", t.s.Server, t.s.Point, kind)
	if t.s.Point == "" {
		name = fmt.Sprintf("%s-%s", t.s.Server, kind)
	}
	file := filepath.Join(t.d.o.ResultDir, name)
	if abs, err := filepath.Abs(file); err == nil {
		return abs
	}
	return file
}

func (t *turn) picture(ctx context.Context, m *vm.Machine) {
	ctx, cancel := context.WithTimeout(ctx, pictureTimeout)
	defer cancel()
	file := t.resultFile("screen.png")
	if err := m.Screenshot(ctx, file); err != nil {
		os.Remove(file)
		t.r.Notes = append(t.r.Notes, "no picture of the screen: "+err.Error())
		return
	}
	t.r.Screenshot = file
}

// watch follows one machine.
type watch struct {
	t       *turn
	m       *vm.Machine
	powerOn time.Time
	noted   int // sightings turned into steps so far

	lastAsked time.Time
	packages  *Packages // that the machine told of
}

// goodSigns are the steps of a boot on the console.
var goodSigns = [...]vm.Sign{vm.SignFirmware, vm.SignLoader, vm.SignKernel, vm.SignRoot, vm.SignInit, vm.SignLogin}

// proven returns nil once the machine shows a login prompt and its report holds
// against the source's facts.
func (w *watch) proven(ctx context.Context) *failure {
	reports := make(chan report, 1)
	go readReports(w.m.Report(), reports) // ends with the machine
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var reported time.Time // when the machine last had something new to say
	for {
		select {
		case <-tick.C:
		case r, ok := <-reports:
			if !ok {
				reports = nil
				continue
			}
			if reported.IsZero() {
				w.t.step(StepReport)
			}
			if r.facts != w.t.r.Guest || r.packages != w.packages { // answers may be others each time
				reported = time.Now()
			}
			w.t.r.Guest, w.t.answers, w.packages = r.facts, r.answers, r.packages
			w.t.r.Checks = append(Compare(w.t.s.Facts, r.facts, w.t.r.HeldBack), w.t.comparePackages(r.packages)...)
		case <-w.m.Exited():
			w.noteSteps()
			return failed(exitFailure(w.m.Console()))
		case <-ctx.Done():
			w.noteSteps()
			return failed(timeoutFailure(w.m.Console(), w.t.checks(), !reported.IsZero(), w.t.d.o.Timeout))
		}
		w.noteSteps()
		login := w.t.reachedThisBoot(string(vm.SignLogin))
		switch {
		case login && holds(w.t.r.Checks) && w.asked(ctx):
			return nil
		case login && !reported.IsZero() && time.Since(reported) > settleTime:
			return failed(timeoutFailure(w.m.Console(), w.t.checks(), true, settleTime))
		case !login:
			if f := signFailure(w.m.Console(), time.Now()); f != nil {
				return f
			}
		}
	}
}

// asked runs the probes, not more often than every few seconds.
func (w *watch) asked(ctx context.Context) bool {
	if len(w.t.s.Probes) == 0 {
		return true
	}
	if time.Since(w.lastAsked) < askEvery {
		return false
	}
	if w.lastAsked.IsZero() {
		w.t.step(StepProbe)
	}
	good := w.t.ask(ctx)
	w.lastAsked = time.Now()
	return good
}

// checks are those of the report and those of the user.
func (t *turn) checks() []Check { return append(slices.Clone(t.r.Checks), t.r.Probes...) }

// noteSteps turns new good signs into steps. A later step implies the earlier
// ones, of which a quiet console shows nothing.
func (w *watch) noteSteps() {
	seen := w.m.Console().Sightings()
	for _, s := range seen[w.noted:] {
		i := slices.Index(goodSigns[:], s.Sign)
		for _, sign := range goodSigns[:i+1] {
			if !w.t.reachedThisBoot(string(sign)) {
				after := s.At.Sub(w.t.began)
				w.t.r.Steps = append(w.t.r.Steps, Step{string(sign), after})
				w.t.d.o.Progress(Update{Server: w.t.s.Server, Step: string(sign), After: after})
			}
		}
	}
	w.noted = len(seen)
}

// reachedThisBoot looks behind the last boot step: an earlier attempt does not
// count.
func (t *turn) reachedThisBoot(step string) bool {
	for _, s := range slices.Backward(t.r.Steps) {
		if s.Name == step {
			return true
		}
		if s.Name == StepBoot {
			return false
		}
	}
	return false
}
