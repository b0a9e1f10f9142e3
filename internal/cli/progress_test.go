package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

var epoch = time.Date(2017, 9, 6, 3, 0, 0, 0, time.UTC)

// sample is one server in each state there is.
func sample() snapshot {
	p := func(name string, f func(*serverState)) serverState {
		v := serverState{Progress: protect.Progress{Server: dr.ServerName(name), Started: epoch}}
		f(&v)
		return v
	}
	return snapshot{Title: "replicate", Started: epoch, Servers: []serverState{
		p("web1", func(v *serverState) {
			v.Phase, v.Bytes, v.BytesDone, v.WireIn = "copying", 1_200_000_000, 480_000_000, 120_000_000
			v.Rate, v.Wire = 12_000_000, 3_000_000
		}),
		p("app1", func(v *serverState) { v.Phase, v.Entries, v.Examined = "scanning", 45_678, 12_345 }),
		p("db1", func(v *serverState) {
			v.Finished, v.Took, v.Bytes, v.BytesDone, v.FilesDone, v.WireIn = true, 58*time.Second, 9_000_000, 9_000_000, 321, 2_500_000
		}),
		p("db2", func(v *serverState) {
			v.Finished, v.Err = true, errors.New("reach db2: the host refuses the login (it takes: publickey)\x1b[31m\nmore")
		}),
		p("mail1", func(v *serverState) {
			v.Phase, v.Bytes, v.BytesDone, v.Note = "copying", 100, 50, "the link is cut; trying again in 8s"
		}),
		p("files1", func(v *serverState) { v.Started = time.Time{} }),
	}}
}

func TestBoard(t *testing.T) {
	now := epoch.Add(75 * time.Second)
	for _, c := range []struct {
		name          string
		width, height int
		style         style
		want          string
	}{
		{"wide", 120, 30, style{}, `
replicate  1m15s   1 done, 1 failed, 3 at work, 1 waiting   489 MB of 1.21 GB   12.0 MB/s   wire 122 MB at 3.00 MB/s
  web1    copying        ████████░░░░░░░░░░░░  40%   480 MB of 1.20 GB   12.0 MB/s   1m00s left
  app1    scanning       12,345 of 45,678 entries
  db1     done           58s   9.00 MB in 321 files   wire 2.50 MB
  db2     failed         reach db2: the host refuses the login (it takes: publickey)·[31m; more
  mail1   copying        the link is cut; trying again in 8s
  files1  waiting`},
		{"narrow", 50, 30, style{}, `
replicate  1m15s   489 MB of 1.21 GB   12.0 MB/s
  web1    copying         40%   480 MB of 1.20 GB
  app1    scanning       12,345 of 45,678 entries
  db1     done           58s   9.00 MB in 321 fil…
  db2     failed         reach db2: the host refu…
  mail1   copying        the link is cut; trying …
  files1  waiting`},
		{"low", 80, 5, style{}, `
replicate  1m15s   1 done, 1 failed, 3 at work, 1 waiting   489 MB of 1.21 GB
  web1   copying         40%   480 MB of 1.20 GB   12.0 MB/s   1m00s left
  app1   scanning       12,345 of 45,678 entries
  mail1  copying        the link is cut; trying again in 8s
  and 3 more: 1 done, 1 failed, 1 waiting`},
		{"ascii", 100, 3, style{ASCII: true}, `
replicate  1m15s   1 done, 1 failed, 3 at work, 1 waiting   489 MB of 1.21 GB   12.0 MB/s
  web1  copying        ########............  40%   480 MB of 1.20 GB   12.0 MB/s   1m00s left
  and 5 more: 1 done, 1 failed, 2 at work, 1 waiting`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := "\n" + strings.Join(board(sample(), now, c.width, c.height, c.style), "\n")
			if got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
		})
	}
}

// TestBoardFits draws at every size and holds that no line is too long, that there
// are not too many, and that colour changes nothing but colour.
func TestBoardFits(t *testing.T) {
	now := epoch.Add(time.Hour)
	for width := 20; width < 140; width++ {
		for height := 3; height < 10; height++ {
			lines := board(sample(), now, width, height, style{})
			if len(lines) > height {
				t.Fatalf("%d lines in %d", len(lines), height)
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width {
					t.Fatalf("width %d: %d characters: %q", width, n, l)
				}
				if strings.ContainsAny(l, "\x1b\n\r") {
					t.Fatalf("control characters: %q", l)
				}
			}
			painted := board(sample(), now, width, height, style{Color: true})
			for i, l := range painted {
				for _, code := range []string{"0", "1", "2", "31", "32", "33", "34"} {
					l = strings.ReplaceAll(l, "\x1b["+code+"m", "")
				}
				if l != lines[i] {
					t.Fatalf("painted %q is not %q", l, lines[i])
				}
			}
		}
	}
}

func TestPlain(t *testing.T) {
	got := plainLine(sample(), epoch.Add(75*time.Second))
	want := "replicate  1m15s   1 done, 1 failed, 3 at work, 1 waiting   489 MB of 1.21 GB   12.0 MB/s   wire 122 MB at 3.00 MB/s   [web1 copying 40%, app1 scanning, mail1 copying 50%]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var events []string
	for _, v := range sample().Servers {
		events = append(events, plainEvent(serverState{}, v), plainEvent(v, v))
	}
	wantEvents := []string{
		"web1 copying", "", "app1 scanning", "", "db1 done in 58s   9.00 MB in 321 files   wire 2.50 MB", "",
		"db2 failed: reach db2: the host refuses the login (it takes: publickey)·[31m; more", "",
		"mail1 copying: the link is cut; trying again in 8s", "", "", "",
	}
	if !slices.Equal(events, wantEvents) {
		t.Errorf("got  %q\nwant %q", events, wantEvents)
	}
}

func TestTracker(t *testing.T) {
	tr := newTracker("replicate", []dr.ServerName{"web1", "app1"}, epoch)
	tr.update(protect.Progress{Server: "stranger", Phase: "copying"}, epoch)
	at := epoch
	for i := range 40 { // a steady 10 MB/s
		at = epoch.Add(time.Duration(i) * time.Second)
		tr.update(protect.Progress{Server: "web1", Phase: "copying", Bytes: 1e9, BytesDone: int64(i) * 1e7, WireIn: int64(i) * 1e6}, at)
		tr.look(at)
	}
	s := tr.look(at.Add(10 * time.Millisecond))
	web, app := s.Servers[0], s.Servers[1]
	if len(s.Servers) != 2 || web.Rate < 9.9e6 || web.Rate > 10.1e6 || web.Wire < 0.99e6 || web.Wire > 1.01e6 {
		t.Errorf("after a steady 10 MB/s: %+v", web)
	}
	if !web.Started.Equal(epoch) || !app.Started.IsZero() {
		t.Errorf("started at %v and %v", web.Started, app.Started)
	}
	tr.update(protect.Progress{Server: "web1", Phase: "done", Bytes: 1e9, BytesDone: 1e9, Finished: true}, at.Add(time.Second))
	tr.update(protect.Progress{Server: "web1", Phase: "done", Bytes: 1e9, BytesDone: 1e9, Finished: true}, at.Add(time.Minute))
	if took := tr.look(at.Add(time.Hour)).Servers[0].Took; took != 40*time.Second {
		t.Errorf("took %v, want 40s", took)
	}
	tr.update(protect.Progress{Server: "app1", Phase: "a", BytesDone: 1e9}, at)
	tr.look(at)
	tr.update(protect.Progress{Server: "app1", Phase: "b", BytesDone: 1}, at.Add(time.Second))
	if r := tr.look(at.Add(time.Second)).Servers[1].Rate; r != 0 {
		t.Errorf("rate after the count began anew: %v", r)
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{size(0), "0 B"}, {size(999), "999 B"}, {size(1000), "1.00 kB"}, {size(999_499), "999 kB"}, {size(999_999), "1.00 MB"},
		{size(38_400_000_000), "38.4 GB"}, {size(9_994_000), "9.99 MB"}, {size(9_996_000), "10.0 MB"}, {size(-5000), "-5.00 kB"},
		{size(1 << 62), "4.61 EB"},
		{number(0), "0"}, {number(999), "999"}, {number(1000), "1,000"}, {number(-1234567), "-1,234,567"},
		{span(0), "0.0s"}, {span(400 * time.Millisecond), "0.4s"}, {span(42 * time.Second), "42s"}, {span(187 * time.Second), "3m07s"},
		{span(2*time.Hour + 5*time.Minute), "2h05m"}, {span(99 * time.Hour), "4d03h"}, {span(-time.Minute), "-1m00s"},
		{rough(3 * time.Second), "<10s"}, {rough(38 * time.Second), "40s"}, {rough(59 * time.Second), "1m00s"},
		{rough(9*time.Minute + 58*time.Second), "10m00s"}, {rough(12*time.Minute + 40*time.Second), "13m"}, {rough(130 * time.Minute), "2h10m"},
		{clean("a\x1b[2J\nb\xff\u202ec"), "a·[2J; b··c"}, {cut("abcdef", 4), "abc…"}, {cut("abcd", 4), "abcd"}, {fit("ab", 4), "ab  "},
		{count(1, "server"), "1 server"}, {count(0, "server"), "0 servers"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestLeft(t *testing.T) {
	for _, c := range []struct {
		bytes, done int64
		rate        float64
		want        string
	}{
		{100, 50, 10, "5s true"}, {100, 100, 10, "0s true"}, {0, 0, 10, "0s false"}, {100, 50, 0, "0s false"}, {1 << 60, 0, 1, "0s false"}, {10, 20, 5, "0s false"},
	} {
		d, ok := left(c.bytes, c.done, c.rate)
		if got := fmt.Sprint(d, ok); got != c.want {
			t.Errorf("left(%d, %d, %v) = %s, want %s", c.bytes, c.done, c.rate, got, c.want)
		}
	}
}
