package drill

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	commandTimeout = 30 * time.Second
	maxDetail      = 200
)

// question is what the program that reports is to ask.
type question struct {
	Probes []Probe `json:"probes,omitempty"`
	Share  int     `json:"share,omitempty"` // see Packages; 0: they are not looked at
}

// declared reads what is to be asked from file, where there is one.
func declared(file string) (q question, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return q, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &q)
	}
	if err != nil {
		return q, fmt.Errorf("report: read probes: %w", err)
	}
	return q, nil
}

// answer asks the probes until all are answered well, and writes what changed. What
// cannot be written has no other way out: the port is gone, and its reader with it.
func answer(ctx context.Context, w io.Writer, probes []Probe) {
	var last []Check
	for len(probes) > 0 && ctx.Err() == nil && !holds(last) {
		now := askInside(ctx, probes)
		if ctx.Err() != nil {
			return
		}
		if !slices.Equal(now, last) {
			b, err := json.Marshal(now)
			if err != nil || writeLine(w, answerMark, b) != nil {
				return
			}
		}
		last = now
		select {
		case <-ctx.Done():
		case <-time.After(reportEvery):
		}
	}
}

// askInside asks all probes at once, of the machine this runs in.
func askInside(ctx context.Context, probes []Probe) []Check {
	checks := make([]Check, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() { checks[i] = p.askHere(ctx) })
	}
	wg.Wait()
	return checks
}

func (p Probe) askHere(ctx context.Context) Check {
	var detail string
	var err error
	switch {
	case p.TCP != 0:
		detail, err = p.tcpHere(ctx)
	case p.HTTP != "":
		detail, err = p.httpHere(ctx)
	case p.SQL != "":
		detail, err = p.query(ctx)
	default:
		detail, err = p.run(ctx)
	}
	c := Check{Name: p.String(), Outcome: dr.Done, Detail: detail}
	if err != nil {
		c.Outcome, c.Detail = dr.NotDone, "probe "+p.String()+": "+err.Error()
	}
	return c
}

// dial connects to a port of this machine: services listen on every address, on the
// loopback alone or on one of the network alone.
func dial(ctx context.Context, port string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	hosts := []string{"127.0.0.1", "::1"}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	var first error
	for _, h := range hosts {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(h, port))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (p Probe) tcpHere(ctx context.Context) (string, error) {
	c, err := dial(ctx, strconv.Itoa(p.TCP))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return "takes connections at " + c.RemoteAddr().String() + ", asked from inside", nil
}

func (p Probe) httpHere(ctx context.Context) (string, error) {
	u, err := url.Parse(p.HTTP)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{}
	if u.Hostname() == "" {
		port := strconv.Itoa(p.port())
		u.Host = net.JoinHostPort("localhost", port)
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, port) }
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // its certificate has another name than localhost
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: probeTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return p.judge(resp.StatusCode, string(body))
}

func (p Probe) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	said, whole, err := said(ctx, exec.CommandContext(ctx, "/bin/sh", "-c", p.Command))
	switch {
	case err != nil:
		return "", err
	case !strings.Contains(whole, p.Expect):
		return "", fmt.Errorf("prints %q, want %q", said, p.Expect)
	}
	return fmt.Sprintf("prints %q", said), nil
}

// said runs cmd, made with ctx, in a process group of its own and returns what it printed,
// shortened and whole.
func said(ctx context.Context, cmd *exec.Cmd) (short, whole string, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	short, whole = clip(string(out.b)), string(out.b)
	switch {
	case ctx.Err() != nil:
		return "", "", fmt.Errorf("no end within %s: %q", commandTimeout, short)
	case err != nil:
		return "", "", fmt.Errorf("%w: %q", err, short)
	}
	return short, whole, nil
}

// head keeps the beginning of what is written to it.
type head struct{ b []byte }

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), mostAnswer-len(h.b))]...)
	return len(p), nil
}

func clip(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "…"
	}
	return s
}
