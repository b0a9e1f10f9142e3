// Drill measures `leeward drill` of several servers at once against QEMU alone, which
// brings the same images to a login prompt, in one run.
//
//	go run ./bench/drill -c leeward.yaml [-leeward bin/leeward] [-rounds 1] [NAME…]
//
// The servers must have recovery points; bin/leeward is built. It needs root. QEMU alone
// gets clones of the same points, adapted in the same way and with the same kernel
// arguments, before its clock starts; it has the same options and as many machines at once.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/mountns"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/vm"
)

// bench is one run.
type bench struct {
	leeward, config string
	names           []string
	rounds          int
	store           *replica.Store
	work            string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	b := &bench{}
	flag.StringVar(&b.config, "c", "leeward.yaml", "configuration `FILE`")
	flag.StringVar(&b.leeward, "leeward", "bin/leeward", "the program")
	flag.IntVar(&b.rounds, "rounds", 1, "measure `N` times")
	flag.Parse()
	b.names = flag.Args()
	e, err := config.Load(b.config)
	if err != nil {
		return err
	}
	if !mountns.Entered() {
		if err := replica.EnsurePool(ctx, e.Target.Store, replica.PoolOptions{}); err != nil {
			return err
		}
	}
	if err := mountns.Enter(); err != nil {
		return err
	}
	if b.leeward, err = filepath.Abs(b.leeward); err != nil {
		return err
	}
	if b.store, err = replica.Open(ctx, e.Target.Store); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.store.Close()) }()
	for range b.rounds {
		if err := b.round(ctx); err != nil {
			return err
		}
	}
	return nil
}

// drilled is the part of the result of drill that is of use here.
type drilled struct {
	Duration time.Duration  `json:"duration_ns"`
	Servers  []drill.Result `json:"servers"`
}

func (b *bench) round(ctx context.Context) (err error) {
	fmt.Printf("load before: %s\n", load())
	res, err := b.drill(ctx)
	if err != nil {
		return err
	}
	if b.work, err = b.store.Scratch("bench-drill"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	machines := make([]*machine, len(res.Servers))
	for i := range res.Servers {
		if machines[i], err = b.prepare(ctx, &res.Servers[i]); err != nil {
			return err
		}
	}
	// In the order in which they were begun there.
	slices.SortFunc(machines, func(x, y *machine) int { return x.r.Began.Compare(y.r.Began) })
	fmt.Printf("load between: %s\n", load())
	alone, err := bootAll(ctx, machines)
	if err != nil {
		return err
	}
	report(res, machines, alone)
	return nil
}

func (b *bench) drill(ctx context.Context) (*drilled, error) {
	args := append([]string{"drill", "-c", b.config, "--json"}, b.names...)
	out, err := exec.CommandContext(ctx, b.leeward, args...).Output()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var answer struct{ Result *drilled }
	if jsonErr := json.Unmarshal(lines[len(lines)-1], &answer); jsonErr != nil || answer.Result == nil {
		return nil, fmt.Errorf("leeward %s: %w", strings.Join(args, " "), errors.Join(err, jsonErr))
	}
	for _, r := range answer.Result.Servers {
		if r.Outcome != dr.Done {
			return nil, fmt.Errorf("drill %s: %s: %s", r.Server, r.Outcome, r.Cause)
		}
	}
	return answer.Result, nil
}

// machine is one that QEMU alone boots.
type machine struct {
	r    *drill.Result
	spec vm.Spec
	took time.Duration
}

// prepare makes the image that the drill booted anew.
func (b *bench) prepare(ctx context.Context, r *drill.Result) (*machine, error) {
	rep, err := b.store.Replica(r.Server)
	if err != nil {
		return nil, err
	}
	points, err := rep.Points()
	p := protect.FindPoint(points, r.Point)
	if p == nil {
		return nil, errors.Join(fmt.Errorf("point %s of %s is gone", r.Point, r.Server), err)
	}
	facts, err := p.Facts()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.work, string(r.Server))
	img, err := p.Clone(ctx, dir)
	if err != nil {
		return nil, err
	}
	parts, err := adapt.PartitionsOf(img)
	if err != nil {
		return nil, err
	}
	o := adapt.Options{Firmware: string(r.Firmware), Probe: b.leeward}
	for _, h := range r.HeldBack {
		o.Args = append(o.Args, h.Arg)
	}
	open, err := adapt.Open(ctx, img.Disk, parts, facts, filepath.Join(dir, "image"))
	if err != nil {
		return nil, err
	}
	_, err = adapt.Apply(ctx, open, facts, o)
	if err := errors.Join(err, open.Close()); err != nil {
		return nil, err
	}
	own := filepath.Join(b.work, "vm-"+string(r.Server))
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, err
	}
	spec := vm.Spec{Name: string(r.Server), Dir: own, Disk: img.Disk, Firmware: r.Firmware, Memory: r.Memory, Accel: r.Accelerator}
	for _, c := range adapt.Cards(facts) {
		spec.NICs = append(spec.NICs, vm.NIC{Name: c.GetName(), MAC: c.GetMac()})
	}
	return &machine{r: r, spec: spec}, nil
}

// bootAll brings every machine to its login prompt, as many at once as a drill does.
func bootAll(ctx context.Context, machines []*machine) (time.Duration, error) {
	began := time.Now()
	next := make(chan *machine, len(machines))
	for _, m := range machines {
		next <- m
	}
	close(next)
	atOnce := runtime.NumCPU()
	if vm.Emulated(machines[0].spec.Accel) {
		atOnce++ // see drill.Options.Parallel
	}
	errs := make(chan error, len(machines))
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for m := range next {
				errs <- m.boot(ctx)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return took, errors.Join(all...)
}

const patience = 15 * time.Minute

func (m *machine) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	v, err := vm.Start(ctx, m.spec)
	if err != nil {
		return err
	}
	defer v.Close()
	go func() { // what the program inside says goes nowhere, as its wire does
		r := bufio.NewReader(v.Report())
		for {
			if _, err := r.Discard(1 << 12); err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, ok := v.Console().Seen(vm.SignLogin); ok {
				m.took = time.Since(began)
				return nil
			}
		case <-v.Exited():
			return fmt.Errorf("boot %s: it ended", m.spec.Name)
		case <-ctx.Done():
			return fmt.Errorf("boot %s: %w", m.spec.Name, ctx.Err())
		}
	}
}

func report(res *drilled, machines []*machine, alone time.Duration) {
	fmt.Printf("%-8s %8s %8s %8s %8s %8s %8s   %s\n", "server", "check", "clone", "adapt", "boot", "probe", "in all", "QEMU alone to login")
	var sum drill.Phases
	for _, m := range machines {
		h := m.r.Phases
		fmt.Printf("%-8s %8s %8s %8s %8s %8s %8s   %8s\n", m.r.Server, short(h.Check), short(h.Clone), short(h.Adapt), short(h.Boot), short(h.Probe), short(m.r.Took), short(m.took))
		sum.Check, sum.Clone, sum.Adapt = sum.Check+h.Check, sum.Clone+h.Clone, sum.Adapt+h.Adapt
		sum.Boot, sum.Probe = sum.Boot+h.Boot, sum.Probe+h.Probe
	}
	fmt.Printf("%-8s %8s %8s %8s %8s %8s   (of all, added up)\n", "sum", short(sum.Check), short(sum.Clone), short(sum.Adapt), short(sum.Boot), short(sum.Probe))
	fmt.Printf("all %d proven in %s; QEMU alone to %d login prompts in %s; ratio %.2f (target 1.3); load after: %s\n",
		len(machines), short(res.Duration), len(machines), short(alone), float64(res.Duration)/float64(alone), load())
}

func short(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// load is what else this host does.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
