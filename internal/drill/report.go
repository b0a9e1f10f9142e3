package drill

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// A report is one line on the second serial port: the mark, the facts as base64
// of their protobuf form, the end.
const (
	reportMark = "LEEWARD-REPORT "
	reportEnd  = " END"

	maxReport      = 4 << 20
	startupTimeout = 4 * time.Minute
	reportEvery    = 3 * time.Second
	reportFor      = 10 * time.Minute
)

// GuestReport runs inside a drilled machine: it waits until the system has
// started and writes its facts to w, and again whenever they change, because some
// services open their ports after they count as started. It ends after ten
// minutes or with ctx.
func GuestReport(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, reportFor)
	defer cancel()
	waitForStartup(ctx)
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
		e.Filesystems = append(e.Filesystems, &agentpb.Filesystem{MountPoint: fs.GetMountPoint(), Uuid: fs.GetUuid()})
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
	// A newline first: whatever stood on the line before is cut off.
	line := "\n" + reportMark + base64.StdEncoding.EncodeToString(b) + reportEnd + "\n"
	if _, err := io.WriteString(w, line); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// readReports sends each report of r to out, the newest one replacing one not yet
// taken, and closes out with r. What is no report is passed over.
func readReports(r io.Reader, out chan *agentpb.Facts) {
	defer close(out)
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 1<<16), maxReport)
	for lines.Scan() {
		f := parseReport(lines.Bytes())
		if f == nil {
			continue
		}
		select {
		case <-out:
		default:
		}
		out <- f
	}
	io.Copy(io.Discard, r) // an endless line ends the scan, and must not stall the guest
}

// parseReport returns nil unless line is a whole report.
func parseReport(line []byte) *agentpb.Facts {
	line = bytes.TrimSpace(line)
	body, ok := bytes.CutPrefix(line, []byte(reportMark))
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
	f := &agentpb.Facts{}
	if proto.Unmarshal(b, f) != nil {
		return nil
	}
	return f
}
