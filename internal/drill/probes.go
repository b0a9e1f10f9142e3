package drill

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Probe is a question that the user wants answered by the machine. One of TCP, HTTP,
// Command and SQL is set. Ports are asked from the bubble, as clients do; commands, statements, and
// ports that the source opens to itself alone, from inside the machine.
type Probe struct {
	TCP     int    `json:"tcp,omitempty"`     // a port that takes connections
	HTTP    string `json:"http,omitempty"`    // a URL; without a host it is the machine itself
	Status  int    `json:"status,omitempty"`  // of HTTP; 0: any below 400
	Text    string `json:"text,omitempty"`    // that the answer to HTTP contains
	Command string `json:"command,omitempty"` // for sh, as root; it ends with 0
	Expect  string `json:"expect,omitempty"`  // that what Command prints contains, and what SQL answers whole

	SQL      string `json:"sql,omitempty"`
	Engine   string `json:"engine,omitempty"`   // of SQL: postgres or mariadb
	Database string `json:"database,omitempty"` // of SQL; "" where the server's own will do
}

const (
	probeTimeout = 10 * time.Second
	mostAnswer   = 1 << 20
)

// String names the probe in results.
func (p Probe) String() string {
	switch {
	case p.HTTP != "":
		return p.HTTP
	case p.TCP != 0:
		return "tcp :" + strconv.Itoa(p.TCP)
	case p.SQL != "":
		return "sql " + p.SQL
	}
	return "command " + p.Command
}

// port is what the probe connects to; 0 for a command.
func (p Probe) port() int {
	if p.HTTP == "" {
		return p.TCP
	}
	u, err := url.Parse(p.HTTP)
	if err != nil {
		return 0
	}
	if n, err := strconv.Atoi(u.Port()); err == nil {
		return n
	}
	return map[string]int{"http": 80, "https": 443}[u.Scheme]
}

// inside reports whether p can be asked only from inside the machine.
func (t *turn) inside(p Probe) bool {
	if p.Command != "" || p.SQL != "" || t.network == nil || !address(t.s).IsValid() {
		return true
	}
	private, public := false, false
	for _, s := range t.s.Facts.GetListening() {
		if int(s.GetPort()) != p.port() || !strings.HasPrefix(s.GetProtocol(), "tcp") {
			continue
		}
		a, err := netip.ParseAddr(s.GetAddress())
		if err == nil && a.IsLoopback() {
			private = true
		} else {
			public = true
		}
	}
	return private && !public
}

// insideProbes are those that the machine asks itself.
func (t *turn) insideProbes() (out []Probe) {
	for _, p := range t.s.Probes {
		if t.inside(p) {
			out = append(out, p)
		}
	}
	return out
}

// ask runs all probes of the turn's subject, or takes what the machine told, and
// reports whether each got what it wants.
func (t *turn) ask(ctx context.Context) bool {
	t.r.Probes = nil
	good := true
	for _, p := range t.s.Probes {
		c := t.answerTo(p)
		if !t.inside(p) {
			c = Check{Name: p.String(), Outcome: dr.Done}
			var err error
			if c.Detail, err = t.askOne(ctx, p); err != nil {
				c.Outcome, c.Detail = dr.NotDone, fmt.Sprintf("probe %s: %v", p, err)
			}
		}
		good = good && c.Outcome == dr.Done
		t.r.Probes = append(t.r.Probes, c)
	}
	return good
}

// noteUnasked puts on record the probes of a machine that did not come so far.
func (t *turn) noteUnasked() {
	if len(t.r.Probes) > 0 {
		return
	}
	for _, p := range t.s.Probes {
		t.r.Probes = append(t.r.Probes, Check{p.String(), dr.Unknown, "not asked: the machine did not come so far"})
	}
}

// answerTo finds what the machine told of p.
func (t *turn) answerTo(p Probe) Check {
	for _, c := range t.answers {
		if c.Name == p.String() {
			return c
		}
	}
	return Check{p.String(), dr.NotDone, "probe " + p.String() + ": no answer from inside yet"}
}

func (t *turn) askOne(ctx context.Context, p Probe) (detail string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	at := address(t.s)
	if p.HTTP != "" {
		return t.askHTTP(ctx, p, at.String())
	}
	conn, err := t.network.Dial(ctx, "tcp4", net.JoinHostPort(at.String(), strconv.Itoa(p.TCP)))
	if err != nil {
		return "", err
	}
	return "takes connections at " + conn.RemoteAddr().String(), conn.Close()
}

func (t *turn) askHTTP(ctx context.Context, p Probe, at string) (detail string, err error) {
	u, err := url.Parse(p.HTTP)
	if err != nil {
		return "", err
	}
	port := strconv.Itoa(p.port())
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
		return "", err
	}
	answer, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer))
	if err != nil {
		return "", err
	}
	return p.judge(answer.StatusCode, string(body))
}

func (p Probe) judge(status int, body string) (string, error) {
	if p.Status != 0 && status != p.Status {
		return "", fmt.Errorf("status %d, want %d", status, p.Status)
	}
	if p.Status == 0 && status >= http.StatusBadRequest {
		return "", fmt.Errorf("status %d", status)
	}
	if !strings.Contains(body, p.Text) {
		return "", fmt.Errorf("status %d, and the answer lacks %q: %q", status, p.Text, clip(body))
	}
	if p.Text != "" {
		return fmt.Sprintf("status %d with %q", status, p.Text), nil
	}
	return fmt.Sprintf("status %d", status), nil
}
