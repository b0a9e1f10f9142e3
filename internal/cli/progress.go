package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/protect"
)

// snapshot is all there is to show at one instant.
type snapshot struct {
	Title   string
	Started time.Time
	Servers []serverState // in the order of the estate
}

// serverState is the progress of one server with what only time tells.
type serverState struct {
	protect.Progress
	Rate float64       // content bytes per second of late
	Wire float64       // bytes per second on the wire of late
	Took time.Duration // once finished
}

// style says what the terminal can show.
type style struct {
	Color bool
	ASCII bool
}

// total is the sum over all servers.
type total struct {
	done, failed, waiting, busy int
	bytes, bytesDone            int64
	wireIn                      int64
	rate, wire                  float64
	known                       bool // every server that has not ended knows what it has to do
}

func (s snapshot) total() total {
	t := total{known: true}
	for _, v := range s.Servers {
		switch {
		case v.Finished && v.Err != nil:
			t.failed++
		case v.Finished:
			t.done++
		case v.Started.IsZero():
			t.waiting++
		default:
			t.busy++
		}
		if v.Finished {
			t.bytes += v.BytesDone // what a failed pass leaves undone is not awaited
		} else {
			t.bytes += v.Bytes
		}
		t.bytesDone += v.BytesDone
		t.wireIn += v.WireIn
		if !v.Finished {
			t.rate += v.Rate
			t.wire += v.Wire
			t.known = t.known && v.Bytes > 0
		}
	}
	return t
}

// left estimates the time for the remaining bytes; ok is false when nothing
// supports an estimate.
func left(bytes, done int64, rate float64) (d time.Duration, ok bool) {
	if bytes <= 0 || rate < 1 || done > bytes {
		return 0, false
	}
	seconds := float64(bytes-done) / rate
	if seconds > 90*24*3600 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// board renders s as lines of at most width characters and at most height lines.
// Servers that are at work come before others where there is no room for all.
func board(s snapshot, now time.Time, width, height int, st style) []string {
	width, height = max(width, 20), max(height, 3)
	lines := []string{summary(s, now, width, st)}
	show, hidden := visible(s.Servers, height-2)
	nameWidth := 4
	for _, v := range show {
		nameWidth = max(nameWidth, len(v.Server))
	}
	nameWidth = min(nameWidth, max(8, width/4))
	spare := height - 2 - len(show)
	for _, v := range show {
		lines = append(lines, serverLine(v, nameWidth, width, st))
		trail := trailLines(v, now, width, spare/max(1, busyIn(show)), st)
		lines = append(lines, trail...)
	}
	if len(hidden) > 0 {
		lines = append(lines, cut("  "+more(hidden), width))
	}
	if st.ASCII {
		for i, l := range lines {
			lines[i] = ascii(l)
		}
	}
	return lines
}

// ascii replaces what a terminal without UTF-8 would garble.
func ascii(line string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '…':
			return '~'
		case c == '├':
			return '|'
		case c == '└':
			return '`'
		case c > 0x7e:
			return '?'
		}
		return c
	}, line)
}

// visible picks the rows for n lines and keeps their order.
func visible(all []serverState, n int) (show, hidden []serverState) {
	if len(all) <= n {
		return all, nil
	}
	rank := func(v serverState) int {
		switch {
		case v.Finished && v.Err != nil:
			return 1
		case v.Finished:
			return 3
		case v.Started.IsZero():
			return 2
		}
		return 0
	}
	picked := make([]bool, len(all))
	for r := 0; r <= 3; r++ {
		for i, v := range all {
			if rank(v) == r && n > 0 {
				picked[i] = true
				n--
			}
		}
	}
	for i, v := range all {
		if picked[i] {
			show = append(show, v)
		} else {
			hidden = append(hidden, v)
		}
	}
	return show, hidden
}

func more(hidden []serverState) string {
	t := snapshot{Servers: hidden}.total()
	return fmt.Sprintf("and %d more: %s", len(hidden), t.words())
}

func (t total) words() string {
	var parts []string
	for _, p := range []struct {
		n    int
		word string
	}{{t.done, "done"}, {t.failed, "failed"}, {t.busy, "at work"}, {t.waiting, "waiting"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	return strings.Join(parts, ", ")
}

// summary is the first line: all servers together.
func summary(s snapshot, now time.Time, width int, st style) string {
	t := s.total()
	parts := []string{s.Title + "  " + span(now.Sub(s.Started).Truncate(time.Second)), t.words()}
	if t.bytes > 0 {
		parts = append(parts, fmt.Sprintf("%s of %s", size(t.bytesDone), size(t.bytes)))
	}
	if t.busy > 0 && t.rate >= 1 {
		parts = append(parts, size(int64(t.rate))+"/s")
	}
	if d, ok := left(t.bytes, t.bytesDone, t.rate); ok && t.busy > 0 && t.known {
		parts = append(parts, rough(d)+" left")
	}
	if t.wireIn > 0 {
		wire := "wire " + size(t.wireIn)
		if t.busy > 0 && t.wire >= 1 {
			wire += " at " + size(int64(t.wire)) + "/s"
		}
		parts = append(parts, wire)
	}
	line := ""
	for _, p := range parts { // what does not fit is left out, the most telling comes first
		next := line + "   " + p
		if line == "" {
			next = p
		}
		if p != "" && len([]rune(next)) <= width {
			line = next
		}
	}
	return st.bold(line)
}

const (
	phaseWidth = 14
	barWidth   = 20
)

// serverLine is the row of one server.
func serverLine(v serverState, nameWidth, width int, st style) string {
	name := fit(string(v.Server), nameWidth)
	room := width - 2 - nameWidth - 2
	switch {
	case v.Finished && v.Err != nil:
		return "  " + name + "  " + st.red(cut(fit("failed", phaseWidth+1)+clean(v.Err.Error()), room))
	case v.Finished:
		return "  " + name + "  " + st.green(cut(fit("done", phaseWidth+1)+doneWords(v), room))
	case v.Started.IsZero():
		return "  " + name + "  " + st.dim(cut("waiting", room))
	}
	head := cut(fit(v.Phase, phaseWidth)+" ", room)
	room = max(0, room-phaseWidth-1)
	if v.Note != "" {
		return "  " + name + "  " + head + st.yellow(cut(clean(v.Note), room))
	}
	if v.Bytes <= 0 {
		return "  " + name + "  " + head + cut(countWords(v), room)
	}
	return "  " + name + "  " + head + byteWords(v, room, st)
}

// doneWords says what a finished pass came to.
func doneWords(v serverState) string {
	w := span(v.Took)
	if v.Unit != "" && v.FilesDone > 0 {
		w += fmt.Sprintf("   %s compared, %s changed", entries(v.Examined, v.Unit), entries(v.FilesDone, v.Unit))
	} else if v.BytesDone > 0 || v.FilesDone > 0 {
		w += fmt.Sprintf("   %s in %s", size(v.BytesDone), count(int(v.FilesDone), "file"))
	} else if v.Examined > 0 {
		w += fmt.Sprintf("   %s examined, nothing to copy", entries(v.Examined, v.Unit))
	}
	if v.WireIn > 0 {
		w += "   wire " + size(v.WireIn)
	}
	return w
}

// entries is a number of what unit calls one of; "" is entry.
func entries(n int64, unit string) string {
	switch {
	case unit != "":
		return count(int(n), unit)
	case n == 1:
		return "1 entry"
	}
	return number(n) + " entries"
}

// countWords tells the progress of what is counted in entries.
func countWords(v serverState) string {
	switch {
	case v.Entries > 0 && v.Examined <= v.Entries:
		return fmt.Sprintf("%s of %s", number(v.Examined), entries(v.Entries, v.Unit))
	case v.Examined > 0:
		return entries(v.Examined, v.Unit)
	}
	return ""
}

// byteWords is a bar and figures, as much of them as there is room for.
func byteWords(v serverState, room int, st style) string {
	share := float64(v.BytesDone) / float64(v.Bytes)
	share = min(max(share, 0), 1)
	figures := []string{
		fmt.Sprintf("%3d%%", int(share*100)),
		fmt.Sprintf("%s of %s", size(v.BytesDone), size(v.Bytes)),
	}
	if v.Rate >= 1 {
		figures = append(figures, size(int64(v.Rate))+"/s")
	}
	if d, ok := left(v.Bytes, v.BytesDone, v.Rate); ok {
		figures = append(figures, rough(d)+" left")
	}
	text := figures[0]
	for _, f := range figures[1:] {
		if len([]rune(text))+3+len([]rune(f)) > room {
			break
		}
		text += "   " + f
	}
	if len([]rune(text))+barWidth+1 <= room {
		return bar(share, st) + " " + text
	}
	return cut(text, room)
}

func bar(share float64, st style) string {
	full := int(share*barWidth + 0.5)
	on, off := "█", "░"
	if st.ASCII {
		on, off = "#", "."
	}
	return st.blue(strings.Repeat(on, full)) + st.dim(strings.Repeat(off, barWidth-full))
}

func (s style) paint(code, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(t string) string   { return s.paint("1", t) }
func (s style) dim(t string) string    { return s.paint("2", t) }
func (s style) red(t string) string    { return s.paint("31", t) }
func (s style) green(t string) string  { return s.paint("32", t) }
func (s style) yellow(t string) string { return s.paint("33", t) }
func (s style) blue(t string) string   { return s.paint("34", t) }

// plainLine is the state of all servers as one line of a log.
func plainLine(s snapshot, now time.Time) string {
	line := summary(s, now, 200, style{})
	var busy []string
	for _, v := range s.Servers {
		if v.Finished || v.Started.IsZero() {
			continue
		}
		word := string(v.Server) + " " + v.Phase
		if v.Bytes > 0 {
			word += fmt.Sprintf(" %d%%", min(100, v.BytesDone*100/v.Bytes))
		}
		if busy = append(busy, word); len(busy) == 8 {
			busy = append(busy, "…")
			break
		}
	}
	if len(busy) > 0 {
		line += "   [" + strings.Join(busy, ", ") + "]"
	}
	return line
}

// plainEvent is the line for a server that changed to another phase, "" where
// that is not worth one.
func plainEvent(before, now serverState) string {
	switch {
	case now.Finished && before.Finished:
		return ""
	case now.Finished && now.Err != nil:
		return fmt.Sprintf("%s failed: %s", now.Server, clean(now.Err.Error()))
	case now.Finished:
		return fmt.Sprintf("%s done in %s", now.Server, doneWords(now))
	case now.Note != before.Note && now.Note != "":
		return fmt.Sprintf("%s %s: %s", now.Server, now.Phase, clean(now.Note))
	case now.Phase != before.Phase:
		return fmt.Sprintf("%s %s", now.Server, now.Phase)
	}
	return ""
}
