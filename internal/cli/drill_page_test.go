package cli

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
)

func TestDrillPageHoldsItsPictures(t *testing.T) {
	dir := t.TempDir()
	png := []byte("\x89PNG\r\n\x1a\nnot more than a beginning")
	if err := os.WriteFile(filepath.Join(dir, "web1.png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
	res := sampleDrill(dir)
	res.Servers[1].Cause = `<script>alert("x")</script> in fstab`
	p := drillPage(res)
	var b bytes.Buffer
	if err := p.HTML(&b); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"data:image/png;base64," + base64.StdEncoding.EncodeToString(png): true, "<script>": false, "&lt;script&gt;": true, "http://": false, "2.0s": true,
	} {
		if strings.Contains(b.String(), text) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
	if md := p.Markdown(); strings.Contains(md, "<script>") || !strings.Contains(md, "| db1 | NOT PROVEN |") {
		t.Errorf("Markdown:\n%s", md)
	}
}

func TestRTOOfGroups(t *testing.T) {
	begin := time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC)
	e := &config.Estate{Servers: []config.Server{{Name: "db1"}, {Name: "web1"}}, Groups: []config.Group{{Name: "shop", Order: []string{"erp", "db1", "web1"}}}}
	results := []drill.Result{
		{Server: "web1", Outcome: dr.NotDone, Refused: true},
		{Server: "web1", Outcome: dr.Done, Began: begin.Add(20 * time.Second), Took: 50 * time.Second, Phases: drill.Phases{Boot: 40 * time.Second}},
		{Server: "db1", Outcome: dr.Done, Began: begin, Took: 30 * time.Second, Phases: drill.Phases{Boot: 20 * time.Second, Probe: time.Second}},
	}
	got := groupResults(e, results)
	if len(got) != 1 || got[0].RTO != 70*time.Second || got[0].Last != "web1" || got[0].Outcome != dr.Done || got[0].Phases.Boot != 40*time.Second || got[0].Phases.Probe != time.Second {
		t.Errorf("%+v", got)
	}
	if got := groupResults(e, results[2:]); got[0].Outcome != dr.Unknown || len(got[0].Missing) != 1 || got[0].RTO != 0 {
		t.Errorf("without a member: %+v", got)
	}
	results[2].Outcome = dr.NotDone
	if got := groupResults(e, results); got[0].Outcome != dr.NotDone || got[0].RTO != 0 {
		t.Errorf("with one not proven: %+v", got)
	}
}
