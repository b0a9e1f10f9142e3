package switchover

import (
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
