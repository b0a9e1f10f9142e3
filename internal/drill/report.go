package drill

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// A report is one line on the second serial port: the mark, the facts as base64
// of their protobuf form, the end. So are answers, as base64 of their checks in JSON.
const (
	reportMark = "LEEWARD-REPORT "
	answerMark = "LEEWARD-ANSWER "
	packsMark  = "LEEWARD-PACKAGES "
	reportEnd  = " END"

	maxReport      = 4 << 20
	startupTimeout = 4 * time.Minute
	reportEvery    = 3 * time.Second
	reportFor      = 10 * time.Minute
)

// report is what a machine told of itself so far.
type report struct {
	facts   *agentpb.Facts
	answers []Check // to the declared probes; nil until they were asked

	packages *Packages // nil until it has looked at them
}

// GuestReport runs inside a drilled machine: it waits until the system has
// started and writes its facts to w, and again whenever they change, because some
// services open their ports after they count as started. What is to be asked beside
// lies in the file adapt.AskFile. It ends after ten minutes or with ctx.
func GuestReport(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, reportFor)
	defer cancel()
	q, err := declared(adapt.AskFile)
	if err != nil {
		return err
	}
	waitForStartup(ctx)
	port := &lockedWriter{w: w}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { answer(ctx, port, q.Probes) })
	asking.Go(func() { tellPackages(port, q.Share) })
	return tellFacts(ctx, port)
}

// lockedWriter lets several write whole lines.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func tellFacts(ctx context.Context, w io.Writer) error {
	var last []byte
	for {
		f, err := agent.CollectFacts(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("report: %w", err)
		}
		if b := essence(f); err == nil && !bytes.Equal(b, last) {
			if err := writeReport(w, f); err != nil {
				return err
			}
			last = b
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reportEvery):
		}
	}
}

// GuestReportPort is GuestReport to the serial port at path.
func GuestReportPort(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	defer f.Close()
	return GuestReport(ctx, f)
}

func waitForStartup(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startupTimeout)
	defer cancel()
	// Its outcome is among the facts; without systemd there is nothing to wait for.
	exec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Run()
}

// essence is what of the facts a check looks at.
func essence(f *agentpb.Facts) []byte {
	e := &agentpb.Facts{SystemState: f.GetSystemState(), FailedUnits: f.GetFailedUnits(), Listening: f.GetListening(),
		HostKeys: f.GetHostKeys()}
	for _, i := range f.GetInterfaces() {
		e.Interfaces = append(e.Interfaces, &agentpb.Interface{Name: i.GetName(), Mac: i.GetMac()})
	}
	for _, fs := range f.GetFilesystems() {
		e.Filesystems = append(e.Filesystems, &agentpb.Filesystem{MountPoint: fs.GetMountPoint(), Uuid: fs.GetUuid(), Options: fs.GetOptions()})
	}
	slices.SortFunc(e.Listening, func(a, b *agentpb.Socket) int { return int(a.GetPort()) - int(b.GetPort()) })
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
	if err != nil {
		return nil
	}
	return b
}

func writeReport(w io.Writer, f *agentpb.Facts) error {
	b, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return writeLine(w, reportMark, b)
}

func writeLine(w io.Writer, mark string, b []byte) error {
	// A newline first: whatever stood on the line before is cut off.
	line := "\n" + mark + base64.StdEncoding.EncodeToString(b) + reportEnd + "\n"
	if _, err := io.WriteString(w, line); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// readReports sends what r has told so far to out after each line of it that counts,
// the newest replacing one not yet taken, and closes out with r. Nothing is sent before
// there are facts. What is no report is passed over.
func readReports(r io.Reader, out chan report) {
	defer close(out)
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 1<<16), maxReport)
	var told report
	for lines.Scan() {
		if f := parseReport(lines.Bytes()); f != nil {
			told.facts = f
		} else if a := parseAnswer(lines.Bytes()); a != nil {
			told.answers = a
		} else if p := parsePackages(lines.Bytes()); p != nil {
			told.packages = p
		} else {
			continue
		}
		if told.facts == nil {
			continue
		}
		select {
		case <-out:
		default:
		}
		out <- told
	}
	io.Copy(io.Discard, r) // an endless line ends the scan, and must not stall the guest
}

// parseReport returns nil unless line is a whole report.
func parseReport(line []byte) *agentpb.Facts {
	f := &agentpb.Facts{}
	if b := parseLine(line, reportMark); b == nil || proto.Unmarshal(b, f) != nil {
		return nil
	}
	return f
}

// parseAnswer returns nil unless line holds whole answers.
func parseAnswer(line []byte) (checks []Check) {
	if b := parseLine(line, answerMark); b == nil || json.Unmarshal(b, &checks) != nil {
		return nil
	}
	for i, c := range checks {
		checks[i].Name, checks[i].Detail = strings.ToValidUTF8(c.Name, "?"), strings.ToValidUTF8(c.Detail, "?")
	}
	return checks
}

// parseLine returns what stands between mark and end, or nil.
func parseLine(line []byte, mark string) []byte {
	body, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(mark))
	if !ok {
		return nil
	}
	body, ok = bytes.CutSuffix(body, []byte(reportEnd))
	if !ok {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil {
		return nil
	}
	return b
}
