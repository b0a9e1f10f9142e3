package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

// Redraw often enough to look alive; a log line seldom enough to be read.
const (
	redrawEvery = 250 * time.Millisecond
	lineEvery   = 5 * time.Second
	rateOver    = 5 * time.Second // time constant of the rates shown
)

// tracker holds the newest progress of every server. Update never waits for
// whoever draws.
type tracker struct {
	mu     sync.Mutex
	state  snapshot                       // guarded by mu, as are the next two
	index  map[dr.ServerName]int          // into state.Servers
	sample map[dr.ServerName]sampledBytes // what the rates were last taken from
}

type sampledBytes struct {
	at          time.Time
	bytes, wire int64
}

func newTracker(title string, names []dr.ServerName, now time.Time) *tracker {
	t := &tracker{state: snapshot{Title: title, Started: now}, index: map[dr.ServerName]int{}, sample: map[dr.ServerName]sampledBytes{}}
	for i, n := range names {
		t.index[n] = i
		t.state.Servers = append(t.state.Servers, serverState{Progress: protect.Progress{Server: n}})
	}
	return t
}

// update takes p as the newest state of its server.
func (t *tracker) update(p protect.Progress, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.index[p.Server]
	if !ok {
		return
	}
	v := &t.state.Servers[i]
	if p.Started.IsZero() && (p.Phase != "" || p.Finished) {
		p.Started = now
		if !v.Started.IsZero() {
			p.Started = v.Started
		}
	}
	if p.Finished && !v.Finished {
		v.Took = now.Sub(p.Started)
	}
	v.Progress = p
}

// look returns a copy of what is known, with rates brought up to now.
func (t *tracker) look(now time.Time) snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.state
	for i := range t.state.Servers {
		t.measure(&t.state.Servers[i], now)
	}
	out.Servers = append([]serverState(nil), t.state.Servers...)
	return out
}

// measure blends what happened since the last sample into the rates of v, the
// more the longer that was.
func (t *tracker) measure(v *serverState, now time.Time) {
	last, ok := t.sample[v.Server]
	dt := now.Sub(last.at)
	if ok && dt < 200*time.Millisecond {
		return
	}
	t.sample[v.Server] = sampledBytes{now, v.BytesDone, v.WireIn}
	if !ok || v.BytesDone < last.bytes || v.WireIn < last.wire {
		v.Rate, v.Wire = 0, 0 // a new phase counts anew
		return
	}
	weight := min(1, dt.Seconds()/rateOver.Seconds())
	if v.Rate == 0 && v.Wire == 0 {
		weight = 1
	}
	v.Rate += weight * (float64(v.BytesDone-last.bytes)/dt.Seconds() - v.Rate)
	v.Wire += weight * (float64(v.WireIn-last.wire)/dt.Seconds() - v.Wire)
}

// terminal is what an output can do.
type terminal struct {
	animate bool
	style   style
	size    func() (width, height int)
}

// detect looks at what w is and what the environment asks for.
func detect(w io.Writer, getenv func(string) string) terminal {
	f, ok := w.(*os.File)
	if !ok {
		return terminal{}
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil || getenv("TERM") == "dumb" {
		return terminal{}
	}
	return terminal{
		animate: true,
		style:   style{Color: getenv("NO_COLOR") == "", ASCII: !speaksUTF8(getenv)},
		size: func() (int, int) {
			ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
			if err != nil || ws.Col == 0 || ws.Row == 0 {
				return 80, 24
			}
			return int(ws.Col), int(ws.Row)
		},
	}
}

func speaksUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true // nothing is said, as in most containers; their terminals show it
}

// redraw writes lines over the drawn ones that are on the screen, and returns how many
// there are now.
func redraw(w io.Writer, drawn int, lines []string) int {
	var b strings.Builder
	b.WriteString("\r")
	if drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", drawn)
	}
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	io.WriteString(w, b.String()) // who reads no progress still gets the result
	return len(lines)
}

// progress shows what a tracker knows until it is stopped.
type progress struct {
	*tracker
	out    io.Writer
	term   terminal
	drawn  int // lines on the screen that are ours
	told   map[dr.ServerName]serverState
	stop   chan struct{}
	ended  chan struct{}
	lastAt time.Time
}

// startProgress begins to show progress: in place on a terminal, as lines
// otherwise. With --json it goes to standard error, and never in place.
func (c *call) startProgress(title string, names []dr.ServerName) *progress {
	now := time.Now()
	p := &progress{
		tracker: newTracker(title, names, now), out: c.Out, term: detect(c.Out, c.Getenv),
		told: map[dr.ServerName]serverState{}, stop: make(chan struct{}), ended: make(chan struct{}), lastAt: now,
	}
	if c.json {
		p.out, p.term = c.Err, terminal{}
	}
	go p.loop()
	return p
}

// Report takes progress as protect and drill give it.
func (p *progress) Report(v protect.Progress) { p.update(v, time.Now()) }

// Close shows the last state and ends. It waits until that is written.
func (p *progress) Close() {
	close(p.stop)
	<-p.ended
}

func (p *progress) loop() {
	defer close(p.ended)
	t := time.NewTicker(redrawEvery)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			p.show(now, false)
		case <-p.stop:
			p.show(time.Now(), true)
			return
		}
	}
}

func (p *progress) show(now time.Time, last bool) {
	s := p.look(now)
	if p.term.animate {
		p.redraw(s, now, last)
		return
	}
	var b strings.Builder
	for _, v := range s.Servers {
		if line := plainEvent(p.told[v.Server], v); line != "" {
			fmt.Fprintf(&b, "%s  %s\n", now.Format(time.TimeOnly), line)
		}
		p.told[v.Server] = v
	}
	if now.Sub(p.lastAt) >= lineEvery && !last {
		p.lastAt = now
		fmt.Fprintf(&b, "%s  %s\n", now.Format(time.TimeOnly), plainLine(s, now))
	}
	io.WriteString(p.out, b.String()) // who reads no progress still gets the result
}

// redraw puts the board over the one before. The last one is drawn whole, however
// many lines it takes, since it stays.
func (p *progress) redraw(s snapshot, now time.Time, last bool) {
	width, height := p.term.size()
	if last {
		height = len(s.Servers) + 2
	}
	lines := board(s, now, width-1, height, p.term.style)
	p.drawn = redraw(p.out, p.drawn, lines)
}
