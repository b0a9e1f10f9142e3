package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	s, err := parse([]string{"-cases", "my-apply,pg-lag", "-scale", "0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.cases) != 2 || s.rows() != 300_000 {
		t.Errorf("got cases %q and %d rows", s.cases, s.rows())
	}
	if s.scale = 0.001; s.rows() != cluster {
		t.Errorf("the smallest table has %d rows, want one whole cluster", s.rows())
	}
	for _, args := range [][]string{{"-cases", "nope"}, {"-scale", "0"}, {"-passes", "0"}, {"-lag", "1ms"}, {"-transactions", "1"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) took it", args)
		}
	}
}

func TestReadCounters(t *testing.T) {
	in, out, err := linkBytes("Inter-| Receive\n    lo: 1 2 3 4 5 6 7 8 9\n  wire: 510 2 0 0 0 0 0 0 77 5 0 0 0 0 0 0\n")
	if err != nil || in != 510 || out != 77 {
		t.Errorf("linkBytes = %d, %d, %v", in, out, err)
	}
	if _, _, err := linkBytes("lo: 1"); err == nil {
		t.Error("linkBytes found a link that is not there")
	}
	cpu, err := cpuSeconds("usage_usec 1500000\nuser_usec 1\n")
	if err != nil || cpu != 1.5 {
		t.Errorf("cpuSeconds = %v, %v", cpu, err)
	}
	if _, err := cpuSeconds("nr_periods 0\n"); err == nil {
		t.Error("cpuSeconds read what is not there")
	}
	tps, err := transactionsPerSecond("latency average = 1 ms\ntps = 1998.25 (without initial connection time)\n")
	if err != nil || tps != 1998.25 {
		t.Errorf("transactionsPerSecond = %v, %v", tps, err)
	}
	if _, err := transactionsPerSecond("nothing"); err == nil {
		t.Error("transactionsPerSecond read what is not there")
	}
	if got := statusBytes("/proc/self/status", "VmHWM:"); got < 1<<20 {
		t.Errorf("this process has a peak of %d bytes", got)
	}
}

func TestTargets(t *testing.T) {
	f := figures{Results: []result{
		{Tool: ours, usage: usage{Seconds: 10, RSS: 200e6}, P99: 1.5, Load: 1950},
		{Tool: "other", usage: usage{Seconds: 35}},
	}}
	for _, c := range []struct {
		target
		want bool
	}{
		{fasterThan(3, "other"), true}, {fasterThan(4, "other"), false}, {rateAtLeast(3.5, "other"), true},
		{fasterThan(1, "absent"), false},
		{memoryAtMost(300e6), true}, {memoryAtMost(200e6), false},
		{lagAtMost(2 * time.Second), true}, {lagAtMost(time.Second), false},
		{loadReached(2000), true}, {loadReached(3000), false},
	} {
		if got, met := c.judge(f); met != c.want {
			t.Errorf("%s %s: got %v, met %v", c.What, c.Want, got, met)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]usage{{Seconds: 9}, {Seconds: 1}, {Seconds: 3}}); got.Seconds != 3 {
		t.Errorf("median = %v", got.Seconds)
	}
}

func TestQuantile(t *testing.T) {
	var ds []time.Duration
	for i := range 100 {
		ds = append(ds, time.Duration(i))
	}
	if p50, p99 := quantile(ds, 0.5), quantile(ds, 0.99); p50 != 50 || p99 != 99 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("there is a quantile of nothing")
	}
}

func TestHeart(t *testing.T) {
	begun := time.Now()
	h := &heart{waiting: map[int64]time.Time{1: begun, 2: begun.Add(time.Second), 3: begun.Add(2 * time.Second)}}
	if h.seen(2, begun.Add(3*time.Second)) {
		t.Error("it is over although beats are still written")
	}
	h.stopped = true
	if h.seen(2, begun.Add(4*time.Second)) {
		t.Error("it is over although a beat is missing")
	}
	if !h.seen(3, begun.Add(4*time.Second)) {
		t.Error("it is not over although all beats were seen")
	}
	if len(h.lags) != 3 || h.lags[2] != 2*time.Second {
		t.Errorf("lags %v", h.lags)
	}
}

func TestStaleness(t *testing.T) {
	// A tenth of each cluster: 4,500 that differ and 500 that are missing.
	text := strings.Join(staleness(cluster), "\n")
	for _, want := range []string{"% 50000 < 4500", "BETWEEN 4500 AND 4999", "% 1000 = 777"} {
		if !strings.Contains(text, want) {
			t.Errorf("staleness lacks %q:\n%s", want, text)
		}
	}
}

func TestWorkIn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	for range 2 { // its own is cleared
		if err := workIn(dir); err != nil {
			t.Fatal(err)
		}
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "precious"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := workIn(other); err == nil {
		t.Error("workIn cleared a directory of somebody else")
	}
	if _, err := os.Stat(filepath.Join(other, "precious")); err != nil {
		t.Error(err)
	}
}
