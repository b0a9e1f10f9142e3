package switchover

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/config"
)

func TestProbeWantsStatusAndText(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		fmt.Fprint(w, "all ok")
	}))
	defer web.Close()
	for _, test := range []struct {
		p    config.Probe
		want string // in the error; "" is none
	}{
		{config.Probe{HTTP: web.URL, Status: 200, Text: "ok"}, ""},
		{config.Probe{HTTP: web.URL}, ""},
		{config.Probe{HTTP: web.URL + "/moved", Status: 302}, ""},
		{config.Probe{HTTP: web.URL, Status: 204}, "200 OK"},
		{config.Probe{HTTP: web.URL, Text: "fine"}, `lacks "fine"`},
	} {
		_, err := probe(t.Context(), test.p, "127.0.0.1")
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.p, err, test.want)
		}
	}
}
