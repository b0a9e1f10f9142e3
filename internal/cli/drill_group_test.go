package cli

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
)

func TestDescribeTakesOrderFromGroupsThatAreWritten(t *testing.T) {
	const text = `estate: acme
source: {name: miami}
target: {name: dallas, store: /srv/leeward}
servers:
  - {name: web1, host: 10.0.0.3, hold: [billing], probes: [{tcp: 80}]}
  - {name: app1, host: 10.0.0.2, after: [db1]}
  - {name: db1, host: 10.0.0.1}
`
	for groups, want := range map[string][]dr.ServerName{
		"": nil,
		"groups: [{name: shop, order: [db1, app1, web1]}]\n": {"db1", "app1"},
	} {
		e, err := config.Parse("x.yaml", []byte(text+groups))
		if err != nil {
			t.Fatal(err)
		}
		subjects := []drill.Subject{{Server: "web1"}, {Server: "app1"}}
		describe(e, subjects)
		web := subjects[0]
		if !slices.Equal(web.After, want) || !slices.Equal(web.Hold, []string{"billing.service"}) || len(web.Probes) != 1 || web.Probes[0].TCP != 80 {
			t.Errorf("with %q: %+v", groups, web)
		}
		if !slices.Equal(subjects[1].After, []dr.ServerName{"db1"}) {
			t.Errorf("app1 comes after %v", subjects[1].After)
		}
		if got := outside(e); len(got) != 3 || got[0] != netip.MustParseAddrPort("10.0.0.3:22") {
			t.Errorf("outside %v", got)
		}
	}
}

func TestKeepOpenEndsWithItsMark(t *testing.T) {
	work := t.TempDir()
	var said bytes.Buffer
	c := &call{Streams: Streams{Err: &said}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.keepOpen(context.Background(), work, []drill.Open{{Server: "db1", Address: netip.MustParseAddr("10.0.0.1"), Enter: "/proc/7/fd/9"}})
	}()
	for os.Remove(filepath.Join(work, openFile)) != nil {
		select {
		case <-ended:
			t.Fatal("it ended by itself: ", said.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it stays open without its mark")
	}
	if !strings.Contains(said.String(), "nsenter --net=/proc/7/fd/9 ssh -o StrictHostKeyChecking=no root@10.0.0.1") {
		t.Errorf("said %q", said.String())
	}
}

// TestKeepOpenNeedsAMachine does not wait where there is nothing to enter.
func TestKeepOpenNeedsAMachine(t *testing.T) {
	work := t.TempDir()
	var said bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	(&call{Streams: Streams{Err: &said}}).keepOpen(ctx, work, nil)
	if ctx.Err() != nil || !strings.Contains(said.String(), "nothing is left open") {
		t.Errorf("said %q, %v", said.String(), ctx.Err())
	}
	if _, err := os.Stat(filepath.Join(work, openFile)); err == nil {
		t.Error("it is on record as open")
	}
}
