package switchover

import (
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/config"
)

// TestUnmovable plans with what would only be missed when applications stand still.
func TestUnmovable(t *testing.T) {
	server := func(s config.Server) *config.Estate {
		s.Name, s.Host = "web1", "10.10.0.11"
		return &config.Estate{Name: "acme", Source: config.Source{Name: "miami"}, Target: config.Target{Name: "dallas", Bridge: "br0"}, Servers: []config.Server{s}}
	}
	fenced := server(config.Server{Fence: &config.Work{Command: "off", Check: "is-off"}})
	nowhere := server(config.Server{Quiesce: &config.Quiesce{Stop: []string{"web.service"}}})
	nowhere.Target.Bridge = ""
	for name, c := range map[string]struct {
		estate *config.Estate
		want   string
	}{
		"nothing fences it":      {server(config.Server{}), "how to make web1 unable to serve at miami"},
		"a command is no fence":  {server(config.Server{Quiesce: &config.Quiesce{Work: &config.Work{Command: "stop"}}}), "how to make web1 unable to serve"},
		"no network to serve on": {nowhere, "which network web1 is attached to at dallas"},
		"all is said":            {fenced, ""},
	} {
		_, err := PlanCutover(c.estate, &State{}, Seen{}, Params{Members: []string{"web1"}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestWhatIsMoved plans without names: what is primary elsewhere, and servers whose
// database moves by itself, have no part in it.
func TestWhatIsMoved(t *testing.T) {
	e := simEstate()
	e.Servers = append(e.Servers, config.Server{Name: "db1", Host: "10.10.0.13", Fence: &config.Work{Command: "off", Check: "is-off"}})
	all := Params{Members: []string{"shop", "plant", "web1", "db1"}}
	p, err := PlanCutover(e, &State{}, Seen{}, all)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(p.Subject, "db1") || len(p.Subject) != 3 || !strings.Contains(strings.Join(p.Notes, "\n"), "db1 is left out") {
		t.Errorf("moved are %v; %v", p.Subject, p.Notes)
	}
	named := all
	named.Chosen = true
	if _, err := PlanCutover(e, &State{}, Seen{}, named); err == nil || !strings.Contains(err.Error(), "moves by itself, from db1") {
		t.Errorf("both at once: %v", err)
	}
	st := &State{}
	st.Set("web1", Member{Primary: Target})
	if p, err = PlanCutover(e, st, Seen{}, all); err != nil || slices.Contains(p.Subject, "web1") {
		t.Errorf("what was moved is moved again: %+v, %v", p, err)
	}
	if p, err = PlanFailback(e, st, Seen{}, all); err != nil || !slices.Equal(p.Subject, []string{"web1"}) {
		t.Errorf("home comes %+v, %v", p, err)
	}
	if _, err = PlanFailback(e, &State{}, Seen{}, all); err == nil {
		t.Error("what was never moved comes home")
	}
}
