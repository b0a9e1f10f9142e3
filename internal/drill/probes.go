package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Probe is a question that the user wants answered by the machine, asked from the
// bubble. One of TCP and HTTP is set.
type Probe struct {
	TCP    int    // a port that takes connections
	HTTP   string // a URL; without a host it is the machine itself
	Status int    // that is wanted; 0: any below 400
	Text   string // that the answer contains
}

const (
	probeTimeout = 10 * time.Second
	mostAnswer   = 1 << 20
)

func (p Probe) String() string {
	if p.HTTP != "" {
		return p.HTTP
	}
	return "tcp :" + strconv.Itoa(p.TCP)
}

// ask runs all probes of the turn's subject and reports whether each got what it wants.
func (t *turn) ask(ctx context.Context) bool {
	t.r.Probes = nil
	good := true
	for _, p := range t.s.Probes {
		c := Check{Name: p.String(), Outcome: dr.Done, Detail: "as wanted"}
		switch {
		case t.network == nil:
			c.Outcome, c.Detail = dr.Unknown, "there is no network to ask from: run as root"
		default:
			if err := t.askOne(ctx, p); err != nil {
				c.Outcome, c.Detail = dr.NotDone, fmt.Sprintf("probe %s: %v", p, err)
			}
		}
		good = good && c.Outcome == dr.Done
		t.r.Probes = append(t.r.Probes, c)
	}
	return good
}

func (t *turn) askOne(ctx context.Context, p Probe) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	at := address(t.s)
	if !at.IsValid() {
		return errors.New("the machine has no address")
	}
	if p.HTTP != "" {
		return t.askHTTP(ctx, p, at.String())
	}
	conn, err := t.network.Dial(ctx, "tcp4", net.JoinHostPort(at.String(), strconv.Itoa(p.TCP)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func (t *turn) askHTTP(ctx context.Context, p Probe, at string) error {
	u, err := url.Parse(p.HTTP)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if u.Hostname() == "" {
		u.Host = net.JoinHostPort(at, port)
	}
	// Whatever name the URL has, it is this machine that is asked.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return t.network.Dial(ctx, "tcp4", net.JoinHostPort(at, port))
	}}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if p.Status != 0 && answer.StatusCode != p.Status || p.Status == 0 && answer.StatusCode >= 400 {
		return fmt.Errorf("the status is %s, want %s", answer.Status, wantStatus(p.Status))
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer))
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), p.Text) {
		return fmt.Errorf("the answer does not contain %q", p.Text)
	}
	return nil
}

func wantStatus(n int) string {
	if n == 0 {
		return "one below 400"
	}
	return strconv.Itoa(n)
}
