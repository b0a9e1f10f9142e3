package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/protect"
)

func TestTrailIsATreeWhereThereIsRoom(t *testing.T) {
	begin := time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC)
	v := serverState{Progress: protect.Progress{Server: "web1", Started: begin, Trail: []protect.Mark{
		{Step: "clone", At: begin}, {Step: "adapt", At: begin.Add(time.Second)}, {Step: "boot", At: begin.Add(3 * time.Second)}}}}
	now := begin.Add(10 * time.Second)
	for room, want := range map[int]string{
		0: "",
		1: "    └ clone 1.0s  adapt 2.0s  boot 7.0s …",
		3: "    ├ clone          1.0s\n    ├ adapt          2.0s\n    └ boot           7.0s …",
	} {
		if got := strings.Join(trailLines(v, now, 80, room, style{}), "\n"); got != want {
			t.Errorf("room %d:\n%s\nwant:\n%s", room, got, want)
		}
	}
	if got := trailLines(v, now, 20, 1, style{}); len(got) != 1 || len([]rune(got[0])) > 20 || !strings.Contains(got[0], "boot") {
		t.Errorf("narrow: %q", got)
	}
	v.Finished = true
	if got := trailLines(v, now, 80, 9, style{}); got != nil {
		t.Errorf("finished: %q", got)
	}
}
